// What is proven: the verdict, its numbers with their intervals, and the circuit beside every control of its size.
import { useState } from "preact/hooks";
import { duration, interval, number, percent, plural, revision, whole } from "./format";
import { Intervals } from "./intervals";
import type { Estimate, Evidence, Scores } from "./payload";
import { run, words } from "./state";
import { Table } from "./table";

export function Header() {
  const { origin, verdict, reason, evidence, warnings } = run.value;
  return (
    <header>
      <p class="kicker">Circuit for</p>
      <h1>{origin.task} <span>in {origin.model}</span></h1>
      <p class="facts">
        <span><b>{origin.method}</b>, seed {origin.seed}</span>
        <span>{origin.family}, {origin.dtype}</span>
        {origin.revision && <span>revision <code title={origin.revision}>{revision(origin.revision)}</code></span>}
        <span>{run.value.traced ? "replaced" : "closed"} nodes take the {origin.settings.direction === "denoise" ? "clean" : origin.reference} value</span>
        {origin.seconds > 0 && <span>found in {duration(origin.seconds)}</span>}
      </p>
      {evidence ? (
        <p class={`verdict ${verdict === "evidence" ? "holds" : "fails"}`} id="verdict">
          <b>{verdict === "evidence" ? "Evidence" : "No evidence"}</b> <span>{reason[0].toUpperCase() + reason.slice(1)}.</span>
        </p>
      ) : (
        <p class="verdict open" id="verdict"><b>Not scored</b> <span>There are no controls beside this circuit yet.</span></p>
      )}
      {warnings.length > 0 && <ul class="warnings" aria-label="Warnings">{warnings.map((each) => <li>{each}</li>)}</ul>}
    </header>
  );
}

export function Proof() {
  const { evidence, sizes } = run.value;
  return (
    <section aria-label="Evidence" class="proof">
      <dl class="tiles">
        {evidence && (run.value.traced ? <Traced evidence={evidence} /> : <Measured evidence={evidence} />)}
        {["head", ...(run.value.traced ? ["mlp"] : []), "neuron", "edge"].filter((kind) => sizes[kind]).map((kind) => (
          <Tile name={`${plural(kind)[0].toUpperCase()}${plural(kind).slice(1)} ${words.value.in}`} note={`${whole(sizes[kind].kept)} of ${whole(sizes[kind].total)}`}>
            {percent(sizes[kind].kept / sizes[kind].total)}
          </Tile>
        ))}
      </dl>
      {evidence && <Controls evidence={evidence} />}
      <Commands commands={run.value.commands} />
    </section>
  );
}

function Measured({ evidence }: { evidence: Evidence }) {
  const { circuit, full, random, split, pairs } = evidence;
  const best = random.length ? Math.min(...random.map((each) => each.kl.mean)) : null;
  return (
    <>
      <Tile name="KL from the full model" note={`95%: ${interval(circuit.kl)} nats`} id="kl" value={circuit.kl.mean} strong>
        {number(circuit.kl.mean)}
      </Tile>
      <Tile name="Faithfulness" note={circuit.faithfulness ? `95%: ${interval(circuit.faithfulness)}` : "undefined: the full and the empty circuit do the same"}
        id="faithfulness" value={circuit.faithfulness?.mean} strong>
        {circuit.faithfulness ? number(circuit.faithfulness.mean) : "–"}
      </Tile>
      <Tile name="Best random circuit" note={`KL of the best of ${random.length}`} id="random" value={best ?? undefined}>
        {best === null ? "–" : number(best)}
      </Tile>
      <Tile name="Accuracy" note={`full model ${percent(full.accuracy.mean)}, on ${pairs} ${split} pairs`} id="accuracy" value={circuit.accuracy.mean}>
        {percent(circuit.accuracy.mean)}
      </Tile>
    </>
  );
}

function Traced({ evidence }: { evidence: Evidence }) {
  const { circuit, full, empty, random, split, pairs } = evidence;
  const [effect, all] = [circuit.effect!, empty.effect!];
  const best = random.length ? Math.max(...random.map((each) => each.effect!.mean)) : null;
  return (
    <>
      <Tile name="Effect of replacing them" note={`95%: ${interval(effect)}, on ${run.value.origin.settings.metric}`} id="effect" value={effect.mean} strong>{number(effect.mean)}</Tile>
      <Tile name="Effect of replacing everything" note={`95%: ${interval(all)}`} id="everything" value={all.mean}>{number(all.mean)}</Tile>
      <Tile name="Best random set" note={`effect of the best of ${random.length}`} id="random" value={best ?? undefined}>{best === null ? "–" : number(best)}</Tile>
      <Tile name="Accuracy with them replaced" note={`${percent(full.accuracy.mean)} with nothing replaced, on ${pairs} ${split} pairs`} id="accuracy" value={circuit.accuracy.mean}>{percent(circuit.accuracy.mean)}</Tile>
    </>
  );
}

interface TileProps { name: string; note: string; id?: string; value?: number; strong?: boolean; children: string }

function Tile({ name, note, id, value, strong, children }: TileProps) {
  return (
    <div class={strong ? "tile strong" : "tile"}>
      <dt>{name}</dt>
      <dd><data id={id} value={value === undefined ? "" : String(value)}>{children}</data><small>{note}</small></dd>
    </div>
  );
}

function Controls({ evidence }: { evidence: Evidence }) {
  const { traced } = run.value;
  const read = (each: Scores): Estimate => (traced ? each.effect! : each.kl);
  const rows: [string, Estimate[]][] = [
    [traced ? "these nodes" : "this circuit", [read(evidence.circuit)]],
    [traced ? "one gradient's" : "attribution", [read(evidence.attribution)]],
    ["integrated gradients", [read(evidence.integrated)]],
    [`${evidence.random.length} random ${traced ? "sets" : "circuits"}`, evidence.random.map(read)],
    [traced ? "everything" : "empty circuit", [read(evidence.empty)]],
  ];
  const seen = `on ${evidence.pairs} prompt pairs of the ${evidence.split} split${evidence.split === "test" ? ", which the search never saw" : ""}, with 95% intervals`;
  return (
    <figure>
      <figcaption>
        <h2>Beside its controls</h2>
        {traced
          ? <p>How far replacing the nodes moves {String(run.value.origin.settings.metric)} {seen}. Every control replaces as many nodes. Farther to the right is better.</p>
          : <p>KL(full ‖ circuit) in nats {seen}. Every control has this circuit’s size. Nearer to 0 is better.</p>}
      </figcaption>
      <Intervals rows={rows} label={`${traced ? "Effect" : "KL"} of the circuit and of its controls; the table below has the numbers`} />
      <ScoreTable evidence={evidence} />
    </figure>
  );
}

function ScoreTable({ evidence }: { evidence: Evidence }) {
  const { traced } = run.value;
  const rows: [string, Scores][] = [
    [traced ? "nothing replaced" : "full model", evidence.full], [traced ? "these nodes" : "circuit", evidence.circuit], ["attribution", evidence.attribution],
    ["integrated gradients", evidence.integrated], [traced ? "everything replaced" : "empty circuit", evidence.empty],
    ...evidence.random.map((each, at): [string, Scores] => [`random ${at + 1}`, each]),
  ];
  const parts: [string, keyof Scores][] = [
    ...(traced ? [["effect", "effect"] as [string, keyof Scores]] : []),
    ["KL (nats)", "kl"], ["faithfulness", "faithfulness"], ["logit difference", "logit_difference"], ["accuracy", "accuracy"], ["exact match", "exact_match"],
  ];
  const cell = (each?: Estimate | null) => (each ? <>{number(each.mean)} <small>{interval(each)}</small></> : "–");
  return (
    <Table summary="All scores as a table" columns={[{ name: "", text: true }, ...parts.map(([name]) => ({ name }))]} count={rows.length}
      row={(at) => [rows[at][0], ...parts.map(([, part]) => cell(rows[at][1][part]))]} />
  );
}

export function Commands({ commands, summary = "Make it again" }: { commands: string[]; summary?: string }) {
  const [copied, setCopied] = useState(false);
  if (!commands.length) return null;
  const text = commands.map((each) => each.replaceAll(" --", " \\\n    --")).join("\n");
  const copy = (): void => void navigator.clipboard?.writeText(text).then(() => setCopied(true), () => setCopied(false));
  return (
    <details class="commands">
      <summary>{summary}</summary>
      <div>
        <pre tabIndex={0}>{text}</pre>
        <button type="button" onClick={copy}>{copied ? "Copied" : "Copy"}</button>
      </div>
    </details>
  );
}
