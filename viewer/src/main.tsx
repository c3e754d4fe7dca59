// Opens the data that the page carries and draws it.
import { batch } from "@preact/signals";
import { render } from "preact";
import { App } from "./app";
import { open } from "./payload";
import { Study } from "./ranking";
import { followTheme, payload, show, studies } from "./state";

async function start(): Promise<void> {
  const [content, read] = await open(document.getElementById("data")!.textContent!);
  followTheme();
  batch(() => {
    payload.value = content;
    studies.value = content.runs.map((run) => new Study(run, read));
    show(0);
  });
  const root = document.getElementById("app")!;
  root.replaceChildren();
  render(<App />, root);
  root.dataset.ready = String(Math.round(performance.now())); // milliseconds since the page was opened
}

start().catch((error: unknown) => {
  document.getElementById("app")!.textContent = `This report could not be opened: ${error}. Browsers from 2023 on can read it.`;
});
