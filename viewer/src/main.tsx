// Opens the data that the page carries and draws it.
import { batch } from "@preact/signals";
import { render } from "preact";
import { App } from "./app";
import { ConceptReport } from "./concept_page";
import { begin as beginConcepts } from "./concept_state";
import { GraphReport } from "./graph";
import { Graph } from "./graph_model";
import { begin } from "./graph_state";
import { open } from "./payload";
import { Study } from "./ranking";
import { followTheme, payload, show, studies } from "./state";

async function start(): Promise<void> {
  const [content, read] = await open(document.getElementById("data")!.textContent!);
  followTheme();
  if (content.graph) begin(new Graph(content.graph, read(content.graph.effects)));
  else if (content.concepts) beginConcepts(content.concepts);
  else batch(() => {
    payload.value = content;
    studies.value = content.runs.map((run) => new Study(run, read));
    show(0);
  });
  const root = document.getElementById("app")!;
  root.replaceChildren();
  render(content.graph ? <GraphReport /> : content.concepts ? <ConceptReport /> : <App />, root);
  root.dataset.ready = String(Math.round(performance.now())); // milliseconds since the page was opened
}

start().catch((error: unknown) => {
  document.getElementById("app")!.textContent = `This report could not be opened: ${error}. Browsers from 2023 on can read it.`;
});
