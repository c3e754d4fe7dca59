// The model behind a graph's page: features that are switched off or scaled, what the model then says, and what the graph
// says it should.
import { useEffect, useState } from "preact/hooks";
import { number, percent } from "./format";
import { type Fill, type GraphAnswer, about, asking, changed, featuresOf, isChanged, put, question, restore, toggle } from "./graph_live_state";
import { type Item, word } from "./graph_model";
import { graph, items } from "./graph_state";
import { NextToken, Past, Said, Tops } from "./live_said";

const OFFERED = 6;
const SHOWN = 12;

export function GraphLive() {
  if (!about) return <Hint />;
  return <Panel />;
}

// A page that was opened as a file has no model; it says how to get one.
function Hint() {
  const { folder } = graph.value.page;
  return <p class="live-hint">To switch features off and see the model change its mind, run <code>subcircuit view {/\s/.test(folder) ? `'${folder}'` : folder}</code></p>;
}

function Panel() {
  const found = asking.answer.value;
  useEffect(() => {
    put({}, false);
    void asking.remember();
  }, []);
  return (
    <section class="live" id="live-view" aria-label="Live">
      <h2>Switch features off, see what the model says</h2>
      <div class="bench">
        <div class="ask">
          <Offers />
          <Changed />
          <Add />
          {found && <p class="mind brief" aria-hidden="true"><Next found={found} /></p>}
        </div>
        <Said asking={asking}>{(each) => <Found found={each} />}</Said>
      </div>
      <History />
    </section>
  );
}

// Where to begin: the most influential of what the graph below shows.
function Offers() {
  const best = items.value.filter((each) => featuresOf(each).length > 0).sort((a, b) => b.influence - a.influence).slice(0, OFFERED);
  return (
    <p class="offers"><span class="soft small">Most influential:</span>{best.map((each) => (
      <button type="button" class={isChanged(each) ? "on" : ""} aria-pressed={isChanged(each)} onClick={() => toggle(featuresOf(each))}>{each.name}</button>
    ))}<span class="soft small">or press a node of the graph below.</span></p>
  );
}

function Changed() {
  const { amount, features, fill } = question.value;
  const slide = (remembered: boolean) => (event: { currentTarget: HTMLInputElement }): void => put({ amount: Number(event.currentTarget.value) }, remembered);
  return (
    <fieldset class="set">
      <legend>Changed</legend>
      <p class="nodes">
        {features.slice(0, SHOWN).map((each) => <button type="button" class="chip" aria-label={`Leave ${each} alone`} onClick={() => toggle([each])}>{each} ×</button>)}
        {features.length > SHOWN && <span class="soft">and {features.length - SHOWN} more</span>}
        {features.length === 0 && <span class="soft">No feature yet.</span>}
      </p>
      <p class="slider">
        <label for="amount">Own value</label>
        <input type="range" id="amount" min={-1} max={2} step={0.05} list="amounts" value={amount} onInput={slide(false)} onChange={slide(true)} aria-valuetext={`${amount} of its own value`} />
        <output>× {amount.toFixed(2).replace("-", "−")}</output>
      </p>
      <p class="row">
        <label for="fill">{amount === 0 ? "Replaced by" : "The rest from"}</label>
        <select id="fill" value={fill} onChange={(event) => put({ fill: event.currentTarget.value as Fill }, event.currentTarget.value !== "counterfactual" || Boolean(question.value.counterfactual))}>
          {Object.entries(about!.fills).map(([value, text]) => <option value={value} selected={value === fill}>{text}</option>)}
        </select>
      </p>
      {fill === "counterfactual" && <p class="row wide"><label for="other">The other prompt</label>
        <input id="other" value={question.value.counterfactual} placeholder="of as many tokens" onChange={(event) => put({ counterfactual: event.currentTarget.value })} /></p>}
      <datalist id="amounts"><option value="0" /><option value="1" /></datalist>
    </fieldset>
  );
}

function Add() {
  const [text, setText] = useState("");
  const add = (event: Event): void => {
    event.preventDefault();
    const named = text.split(/[\s,]+/).filter(Boolean);
    if (!named.length) return;
    setText("");
    put({ features: [...new Set([...question.value.features, ...named])] });
  };
  return (
    <form class="row add" onSubmit={add}>
      <label for="feature">By name</label>
      <input id="feature" value={text} placeholder="3.17@5 4.9@5" autocomplete="off" onInput={(event) => setText(event.currentTarget.value)} />
      <button type="submit">Change</button>
      {changed.value.size > 0 && <button type="button" id="undo" onClick={() => put({ features: [] })}>Undo all</button>}
    </form>
  );
}

const Next = ({ found }: { found: GraphAnswer }) => <NextToken top={found.top[0]} before={found.top_before[0]} changed={found.features > 0} />;
const moved = (value: number): string => (value > 0 ? `+${number(value)}` : number(value));
const mean = (values: number[]): number => values.reduce((sum, each) => sum + each, 0) / values.length;

function Found({ found }: { found: GraphAnswer }) {
  const { features, kl, random, random_kl } = found;
  return (
    <>
      <p class="mind" id="live-mind"><Next found={found} /></p>
      <dl class="live-numbers">
        <div><dt>KL from the untouched model</dt><dd><data id="live-kl" value={String(kl)}>{number(kl)}</data> <small>nats, {features} {features === 1 ? "feature" : "features"}</small></dd></div>
        {random_kl.length > 0 && <div><dt>{random === features ? "As many" : `${random}`} random features</dt><dd><data id="live-random" value={String(mean(random_kl))}>{number(mean(random_kl))}</data> <small>nats, mean of {random_kl.length}</small></dd></div>}
      </dl>
      {features > 0 && <Targets found={found} />}
      <Tops top={found.top} />
    </>
  );
}

// Measured beside predicted: both are changes of the same quantity.
function Targets({ found: { targets } }: { found: GraphAnswer }) {
  return (
    <table class="tops targets" id="live-targets">
      <caption class="soft small">{about!.difference ? "The logit difference" : "Logits above their mean"}: how far each moves, what the graph says (by direct edges; by all paths), and random features</caption>
      <thead><tr><th scope="col" class="text">target</th><th scope="col">was</th><th scope="col">moves</th><th scope="col">edges</th><th scope="col">paths</th><th scope="col">random</th></tr></thead>
      <tbody>
        {targets.map((each) => (
          <tr key={each.label} data-moves={each.after - each.before} data-direct={each.direct} data-through={each.through}>
            <td class="text"><code>{word(each.label)}</code></td><td class="soft">{number(each.before)}</td><td><b>{moved(each.after - each.before)}</b></td><td>{moved(each.direct)}</td><td>{moved(each.through)}</td><td class="soft">{each.random.length ? moved(mean(each.random)) : "–"}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

function History() {
  const columns = [{ name: "changed", text: true }, { name: "next token", text: true }, { name: "KL (nats)" }, { name: "random" }];
  return (
    <Past asking={asking} columns={columns} again={restore}
      row={({ summary, answer }) => [summary, `${word(answer.top[0].text)} ${percent(answer.top[0].probability)}`, number(answer.kl), answer.random_kl.length ? number(mean(answer.random_kl)) : "–"]} />
  );
}

// In the panel of a node: switch its features off, or leave them alone again.
export function Switch({ item }: { item: Item }) {
  const names = featuresOf(item);
  if (!about || !names.length) return null;
  return <button type="button" id="switch" onClick={() => toggle(names)}>{isChanged(item) ? "Leave alone" : question.value.amount === 0 ? "Switch off" : "Change"}</button>;
}
