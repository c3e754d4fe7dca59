// The page from top to bottom.
import { Budgets } from "./budgets";
import { Compare } from "./compare";
import { Edges } from "./edges";
import { Header, Proof } from "./evidence";
import { label } from "./format";
import { Live } from "./live";
import { Neurons } from "./neurons";
import { Overview } from "./overview";
import { Prompts } from "./prompts";
import { Provenance, Stable } from "./provenance";
import { Curves, Sizing } from "./sizing";
import { Tokens } from "./tokens";
import { dark, payload, setTheme, show, shown } from "./state";

export function App() {
  const { runs } = payload.value;
  return (
    <main>
      <nav>
        <span class="mark">subcircuit</span>
        {runs.length > 1 && (
          <span class="choice" role="group" aria-label="Run">
            {runs.map((each, at) => <button type="button" title={each.folder} class={at === shown.value ? "on" : ""} aria-pressed={at === shown.value} onClick={() => show(at)}>{label(each)}</button>)}
          </span>
        )}
        <button type="button" class="theme" onClick={() => setTheme(!dark.value)}>{dark.value ? "Light" : "Dark"}</button>
      </nav>
      <Header />
      <Live />
      <Proof />
      <Compare />
      <section class="circuit" aria-label="Circuit" key={shown.value}>
        <Sizing />
        <Overview />
        <Edges />
        <Neurons />
        <Curves />
        <Budgets />
      </section>
      <section aria-label="Prompts and provenance" key={`more ${shown.value}`}>
        <Prompts />
        <Tokens />
        <Stable />
        <Provenance />
      </section>
    </main>
  );
}
