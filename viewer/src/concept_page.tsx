// The page of a codebook from top to bottom.
import { Detail } from "./concept_detail";
import { List } from "./concept_list";
import { ConceptLive } from "./concept_live";
import { called } from "./concept_model";
import { Measured } from "./concept_score";
import { listed, page } from "./concept_state";
import { duration, interval, number, percent, revision, whole } from "./format";
import { dark, setTheme } from "./state";
import { Table } from "./table";

export function ConceptReport() {
  return (
    <main class="concepts">
      <nav>
        <span>subcircuit</span>
        <button type="button" class="theme" onClick={() => setTheme(!dark.value)}>{dark.value ? "Light" : "Dark"}</button>
      </nav>
      <Head />
      <Strip />
      <ConceptLive />
      <section class="browser" aria-label="Concepts">
        <List />
        <Detail />
      </section>
      <AllConcepts />
      {page.value.score && <Measured score={page.value.score} />}
      <Provenance />
    </main>
  );
}

function Head() {
  const { about, circuit, note, reason, verdict, warnings } = page.value;
  const { seed } = about.settings;
  return (
    <header>
      <p class="kicker">Concepts of hidden states</p>
      <h1>Layer {about.layer} <span>of {about.model}</span></h1>
      <p class="facts">
        <span><b>{about.method}</b>{seed !== undefined && `, seed ${seed}`}</span>
        {about.upper !== null && <span>predicts layer {about.upper}</span>}
        {about.revision && <span>revision <code title={about.revision}>{revision(about.revision)}</code></span>}
        {about.seconds > 0 && <span>fitted in {duration(about.seconds)}</span>}
        {circuit && <span>marked: what the circuit for <b>{circuit.task}</b> keeps ({circuit.method})</span>}
      </p>
      {verdict ? (
        <p class={`verdict ${verdict === "evidence" ? "holds" : "fails"}`} id="verdict"><b>{verdict === "evidence" ? "Evidence" : "No evidence"}</b> <span>{reason[0].toUpperCase() + reason.slice(1)}.</span></p>
      ) : (
        <p class="verdict open" id="verdict"><b>Not scored</b> <span>Nothing here says yet that answers rest on these concepts.</span></p>
      )}
      {warnings.length > 0 && <ul class="warnings" aria-label="Warnings">{warnings.map((each) => <li>{each}</li>)}</ul>}
      {note && <p class="facts">No writers: {note}.</p>}
    </header>
  );
}

function Strip() {
  const { about, concepts, score } = page.value;
  const best = score && Object.entries(score.controls).sort(([, a], [, b]) => b.change.mean - a.change.mean)[0];
  const tiles: [string, string, number, string, string][] = [
    ["Concepts", "count", concepts.length, whole(concepts.length), `in use, of ${whole(about.asked)}`],
    ["Perplexity", "perplexity", about.perplexity, number(about.perplexity, 1), "as many used evenly would be as varied"],
    ["States", "states", about.states, whole(about.states), `words in their texts; ${percent(about.beyond)} lie too far from any concept`],
  ];
  if (score) tiles.push(["Removing it moves P by", "change", score.concept.change.mean, number(score.concept.change.mean, 3), `95%: ${interval(score.concept.change)}, on ${score.texts} texts`]);
  if (best) tiles.push(["Strongest control", "control", best[1].change.mean, number(best[1].change.mean, 3), best[0]]);
  return (
    <section aria-label="Numbers" class="proof">
      <dl class="tiles">
        {tiles.map(([name, id, value, text, note]) => <div class={id === "change" ? "tile strong" : "tile"}><dt>{name}</dt><dd><data id={id} value={String(value)}>{text}</data><small>{note}</small></dd></div>)}
      </dl>
    </section>
  );
}

function AllConcepts() {
  const { score, texts } = page.value;
  const [rows, labels] = [listed.value, Object.keys(texts)];
  const columns = [{ name: "id", text: true }, { name: "called", text: true }, { name: "states" }, ...labels.map((name) => ({ name })), ...(score ? [{ name: "|dP|" }, { name: "texts" }] : []), { name: "head", text: true }, { name: "neuron", text: true }, { name: "words", wide: true }];
  return (
    <Table summary="All concepts as a table" columns={columns} count={rows.length}
      row={(at) => {
        const each = rows[at];
        return [<code>{each.id}</code>, called(each), whole(each.size), ...labels.map((name) => percent(each.labels[name])), ...(score ? [each.effect ? number(each.effect.change, 3) : "–", each.effect?.rows.length ?? 0] : []), each.heads[0]?.node ?? "–", each.neurons[0]?.node ?? "–", Object.keys(each.words).join(" ")];
      }} />
  );
}

function Provenance() {
  const { about, circuit, files, folder, frame, threshold } = page.value;
  const { settings, ...rest } = about;
  const facts: Record<string, unknown> = {
    folder, ...rest, template: frame.template, tokens: frame.tokens, unit: frame.unit, threshold, ...(circuit ? { circuit: circuit.folder } : {}),
    ...prefixed("setting", settings), ...prefixed("word for", frame.labels), ...prefixed("sha256", files),
  };
  return (
    <details class="drawer" id="provenance">
      <summary>Provenance</summary>
      <dl class="facts-list">{Object.entries(facts).map(([name, value]) => <div><dt>{name}</dt><dd><code>{typeof value === "string" ? value || "–" : JSON.stringify(value)}</code></dd></div>)}</dl>
    </details>
  );
}

function prefixed(prefix: string, values: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(values).map(([name, value]) => [`${prefix}, ${name}`, value]));
}
