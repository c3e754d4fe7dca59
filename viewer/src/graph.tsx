// The page of an attribution graph from top to bottom.
import { Chart } from "./graph_chart";
import { GraphLive } from "./graph_live";
import { word } from "./graph_model";
import { chosen, count, graph, items, level, links, open, setLevel } from "./graph_state";
import { Panel } from "./graph_panel";
import { duration, number, percent, revision, signed, whole } from "./format";
import { diverging } from "./canvas";
import { dark, setTheme } from "./state";
import { Commands } from "./evidence";
import { Table } from "./table";

const LISTED = 400;

export function GraphReport() {
  return (
    <main>
      <nav>
        <span class="mark">subcircuit</span>
        <button type="button" class="theme" onClick={() => setTheme(!dark.value)}>{dark.value ? "Light" : "Dark"}</button>
      </nav>
      <Head />
      <Strip />
      <GraphLive />
      <section class="circuit" aria-label="Attribution graph">
        <Choices />
        <figure>
          <figcaption>
            <h2>From tokens to the next token</h2>
            <p>Tokens below, layers upwards, what is explained on top. A link is the direct effect of one node on another: orange adds to it, blue takes away, width is the influence that passes.</p>
            <Legend />
          </figcaption>
          <Chart />
          <Panel />
          <Tables />
        </figure>
      </section>
      <Provenance />
    </main>
  );
}

function Head() {
  const { file, warnings } = graph.value.page;
  const { right } = file.settings;
  return (
    <header>
      <p class="kicker">Attribution graph of the next token</p>
      <h1>{file.prompt} <span>in {file.model}</span></h1>
      <p class="facts">
        <span>{right ? "explains the logit difference" : `explains ${file.targets.length === 1 ? "one logit" : `${file.targets.length} logits`}`}: {file.targets.map((each, at) => <>{at > 0 && ", "}<b>{word(each.label)}</b>{!right && ` ${percent(each.weight)}`}</>)}</span>
        {file.revision && <span>revision <code title={file.revision}>{revision(file.revision)}</code></span>}
        {file.seconds > 0 && <span>made in {duration(file.seconds)}</span>}
      </p>
      {warnings.length > 0 && <ul class="warnings" aria-label="Warnings">{warnings.map((each) => <li>{each}</li>)}</ul>}
    </header>
  );
}

function Strip() {
  const { file, commands } = graph.value.page;
  const tiles: [string, string, string, number, string][] = [
    ["Replacement score", "replacement", number(file.replacement), file.replacement, "of what reaches the targets, the share from tokens, not errors"],
    ["Completeness score", "completeness", number(file.completeness), file.completeness, "of each node’s inputs, the share that is no error"],
    ["Features", "features", whole(file.features), file.features, `nodes, of ${whole(file.active)} active ones`],
    ["Tokens", "tokens", whole(file.words.length), file.words.length, `and ${whole(file.layers)} layers`],
  ];
  return (
    <section aria-label="Scores" class="proof">
      <dl class="tiles">
        {tiles.map(([name, id, text, value, note], at) => <div class={at < 2 ? "tile strong" : "tile"}><dt>{name}</dt><dd><data id={id} value={String(value)}>{text}</data><small>{note}</small></dd></div>)}
      </dl>
      <Commands commands={commands} />
    </section>
  );
}

function Choices() {
  const { ranked, nodes, page } = graph.value;
  const [shown, share] = [count.value, nodes[ranked[count.value - 1]]?.share ?? 0];
  const sizes = page.levels.map((each) => new Set(each).size);
  return (
    <div class="sizing">
      <div class="slider">
        <label for="nodes">Nodes</label>
        <input id="nodes" type="range" min={Math.min(1, ranked.length)} max={ranked.length} step={1} value={shown} aria-valuetext={`${shown} of ${ranked.length}, ${percent(share)} of the influence`}
          onInput={(event) => void (count.value = Number(event.currentTarget.value))} />
        <output for="nodes">{whole(shown)}</output>
        {sizes.length > 1 && (
          <label class="level">Level <select id="level" value={level.value} onChange={(event) => setLevel(Number(event.currentTarget.value))}>
            {sizes.map((size, at) => <option value={at} selected={at === level.value}>{at ? `${whole(size)} groups` : "single features"}</option>)}
          </select></label>
        )}
      </div>
      <p class="readout" aria-live="polite">
        <span>The {whole(shown)} most influential of {whole(ranked.length + page.left_out)} features and errors</span>
        <span><data id="share" value={share}>{percent(share)}</data> of the influence</span>
        {level.value > 0 && <span><data id="groups" value={items.value.filter((each) => each.kind === "group").length}>{items.value.filter((each) => each.kind === "group").length}</data> groups</span>}
        {open.value.size > 0 && <button type="button" id="fold" onClick={() => (open.value = new Set())}>Collapse all</button>}
      </p>
    </div>
  );
}

function Legend() {
  const stops = [0.12, 0.4, 0.7, 1].map((at) => diverging(at, dark.value)).join(", ");
  return (
    <p class="legend">
      <span>0</span> <i style={{ background: `linear-gradient(90deg, ${stops})` }} /> <span>most</span> <span class="unit">influence of a node, also its size</span>
      <span><svg width={12} height={12}><circle cx={6} cy={6} r={5} fill={diverging(0.6, dark.value)} /></svg> feature</span>
      <span><svg width={13} height={13} class="graph-key"><path class="mark error" d="M6.5 0.5L12.5 6.5L6.5 12.5L0.5 6.5Z" stroke={diverging(0.7, dark.value)} /></svg> error: what no feature explains</span>
      {graph.value.page.levels.length > 1 && <span><svg width={13} height={13}><rect x={0.5} y={0.5} width={12} height={12} rx={3} fill={diverging(0.6, dark.value)} /></svg> group, with its number of features</span>}
    </p>
  );
}

function Tables() {
  const { nodes, page } = graph.value;
  const [shown, all] = [items.value, links.value];
  const sorted = [...shown.keys()].sort((a, b) => shown[b].influence - shown[a].influence);
  const press = (at: number) => <button type="button" class="plain" onClick={() => (chosen.value = shown[at].key)}>{shown[at].name}</button>;
  return (
    <>
      <Table summary="Nodes as a table" count={shown.length} columns={[{ name: "node", text: true }, { name: "", text: true }, { name: "layer" }, { name: "at", text: true }, { name: "influence" }, { name: "activation" }]}
        row={(row) => {
          const item = shown[sorted[row]];
          const { layer, position, activation } = nodes[item.place];
          const inside = item.kind !== "token" && item.kind !== "target";
          return [press(sorted[row]), item.kind, inside ? layer : "", word(page.file.words[position]), number(item.influence, 3), item.kind === "feature" ? signed(activation!) : ""];
        }} />
      <Table summary="Strongest links as a table" count={Math.min(LISTED, all.length)} columns={[{ name: "from", text: true }, { name: "to", text: true }, { name: "effect" }, { name: "of its inputs" }, { name: "influence" }]}
        row={(row) => [press(all[row].from), press(all[row].to), signed(all[row].effect), percent(all[row].share), number(all[row].flow, 3)]} />
    </>
  );
}

function Provenance() {
  const { file, folder } = graph.value.page;
  const facts: Record<string, unknown> = { folder, model: file.model, revision: file.revision };
  for (const [prefix, values] of Object.entries({ transcoders: file.transcoders, setting: file.settings, version: file.versions })) {
    for (const [name, value] of Object.entries(values)) facts[`${prefix}, ${name}`] = value;
  }
  return (
    <details class="drawer" id="provenance">
      <summary>Provenance</summary>
      <dl class="facts-list">{Object.entries(facts).map(([name, value]) => <div><dt>{name}</dt><dd><code>{typeof value === "string" ? value || "–" : JSON.stringify(value)}</code></dd></div>)}</dl>
    </details>
  );
}
