// One item of the graph: what it hears from and sends to, signed, and texts that turn a feature on.
import { useState } from "preact/hooks";
import { number, percent, signed } from "./format";
import { Switch } from "./graph_live";
import type { Example, Item, Link } from "./graph_model";
import { chosen, collapse, expand, graph, items, level, links, open, selected } from "./graph_state";

const STRONGEST = 10;

export function Panel() {
  const item = items.value[selected.value];
  if (!item) return null;
  const both = links.value.filter((each) => each.from === selected.value || each.to === selected.value);
  const into = both.filter((each) => each.to === selected.value).sort((a, b) => Math.abs(b.effect) - Math.abs(a.effect));
  const out = both.filter((each) => each.from === selected.value);
  const folds = graph.value.folds(item, level.value, open.value);
  return (
    <div class="panel" id="panel" aria-label={`Inputs and outputs of ${item.name}`} role="region" key={item.key}>
      <p class="panel-head">
        <b>{item.name}</b>
        <Switch item={item} />
        {item.kind === "group" && <button type="button" id="expand" onClick={() => expand(item)}>Expand</button>}
        {folds.length > 0 && <button type="button" id="collapse" onClick={() => collapse(folds[0])}>Collapse its group</button>}
        <button type="button" class="close" onClick={() => (chosen.value = null)}>Close</button>
      </p>
      {item.kind === "group" && <Members item={item} />}
      <div class="pair">
        <Side name="Strongest inputs" links={into} other={(each) => each.from} empty={item.kind === "token" || item.kind === "error" ? "None: the graph begins here." : "None among what is shown."}
          note={into.length ? `${percent(into.reduce((sum, each) => sum + each.share, 0))} of all inputs are among what is shown` : ""} />
        <Side name="Strongest outputs" links={out} other={(each) => each.to} empty={item.kind === "target" ? "None: the graph ends here." : "None among what is shown."}
          note={out.length ? "by the influence that passes" : ""} />
      </div>
      {item.kind === "feature" && <Examples of={graph.value.page.examples[item.name.split("@")[0]]} />}
    </div>
  );
}

function Side({ name, links: given, other, empty, note }: { name: string; links: Link[]; other: (link: Link) => number; empty: string; note: string }) {
  const [most, setMost] = useState(STRONGEST);
  const largest = Math.max(...given.map((each) => Math.abs(each.effect)), 1e-12);
  return (
    <div>
      <h3>{name} {note && <small>{note}</small>}</h3>
      {!given.length && <p class="soft">{empty}</p>}
      <ol class="links">
        {given.length > 0 && <li class="heads"><span /><span /><span>effect</span><span title="share of all that the receiving node takes in">of inputs</span></li>}
        {given.slice(0, most).map((each) => {
          const item = items.value[other(each)];
          return (
            <li key={item.key}>
              <button type="button" class="plain" onClick={() => (chosen.value = item.key)}>{item.name}</button>
              <i class={each.effect < 0 ? "less" : "more"} style={{ width: `${(72 * Math.abs(each.effect)) / largest}px` }} />
              <data value={each.effect}>{signed(each.effect)}</data>
              <small>{percent(each.share)}</small>
            </li>
          );
        })}
      </ol>
      {given.length > most && <button type="button" onClick={() => setMost(most + 40)}>{given.length - most} more</button>}
    </div>
  );
}

function Members({ item }: { item: Item }) {
  const { nodes } = graph.value;
  const sorted = item.members.toSorted((a, b) => nodes[b].influence - nodes[a].influence);
  return (
    <details class="members">
      <summary>{item.members.length} features</summary>
      <p>{sorted.map((at) => <span><b>{nodes[at].name}</b> {number(nodes[at].influence, 3)}</span>)}</p>
    </details>
  );
}

function Examples({ of }: { of: Example[] | undefined }) {
  if (!of) return null;
  return (
    <div class="examples">
      <h3>Texts that turn it on</h3>
      {of.map((each) => <p><data value={each.activation}>{number(each.activation)}</data> {each.before}<mark>{each.token}</mark>{each.after}</p>)}
    </div>
  );
}
