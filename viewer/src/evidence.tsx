// What is proven: the verdict, its numbers with their intervals, and the circuit beside every control of its size.
import { useState } from "preact/hooks";
import { duration, interval, number, percent, plural, revision, whole } from "./format";
import type { Estimate, Evidence, Run, Scores } from "./payload";
import { run } from "./state";
import { Table } from "./table";
import { useWidth } from "./canvas";

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
        <span>closed nodes take the {origin.reference} value</span>
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
        {evidence && <Measured evidence={evidence} />}
        {["head", "neuron", "edge"].filter((kind) => sizes[kind]).map((kind) => (
          <Tile name={`${plural(kind)[0].toUpperCase()}${plural(kind).slice(1)} kept`} note={`${whole(sizes[kind].kept)} of ${whole(sizes[kind].total)}`}>
            {percent(sizes[kind].kept / sizes[kind].total)}
          </Tile>
        ))}
      </dl>
      {evidence && <Controls evidence={evidence} />}
      <Commands run={run.value} />
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

interface TileProps { name: string; note: string; id?: string; value?: number; strong?: boolean; children: string }

function Tile({ name, note, id, value, strong, children }: TileProps) {
  return (
    <div class={strong ? "tile strong" : "tile"}>
      <dt>{name}</dt>
      <dd><data id={id} value={value === undefined ? "" : String(value)}>{children}</data><small>{note}</small></dd>
    </div>
  );
}

const ROW = 26;

function Controls({ evidence }: { evidence: Evidence }) {
  const [box, width] = useWidth<HTMLDivElement>();
  const rows: [string, Scores[]][] = [
    ["this circuit", [evidence.circuit]],
    ["attribution", [evidence.attribution]],
    ["integrated gradients", [evidence.integrated]],
    [`${evidence.random.length} random circuits`, evidence.random],
    ["empty circuit", [evidence.empty]],
  ];
  const most = Math.max(...rows.flatMap(([, all]) => all.map((each) => each.kl.high)), 1e-6);
  const left = width < 480 ? 136 : 150;
  const x = (value: number): number => left + (value / most) * (width - left - 14);
  return (
    <figure>
      <figcaption>
        <h2>Beside its controls</h2>
        <p>KL(full ‖ circuit) in nats on {evidence.pairs} prompt pairs of the {evidence.split} split{evidence.split === "test" && ", which the search never saw"}, with 95% intervals. Every control has this circuit’s size. Nearer to 0 is better.</p>
      </figcaption>
      <div ref={box}>
        <svg width={width} height={rows.length * ROW + 26} role="img" aria-label="KL of the circuit and of its controls; the table below has the numbers">
          {ticks(most).map((tick) => (
            <g class="tick"><line x1={x(tick)} x2={x(tick)} y1={4} y2={rows.length * ROW + 4} /><text x={x(tick)} y={rows.length * ROW + 20} text-anchor="middle">{tick}</text></g>
          ))}
          {rows.map(([name, all], row) => (
            <g class={row ? "control" : "control own"} transform={`translate(0 ${row * ROW + ROW / 2 + 4})`}>
              <text x={left - 12} y={4} text-anchor="end">{name}</text>
              {all.length === 1 && <line x1={x(all[0].kl.low)} x2={x(all[0].kl.high)} />}
              {all.map((each) => <circle cx={x(each.kl.mean)} r={row ? 4 : 5.5}><title>{`${name}: ${number(each.kl.mean)}`}</title></circle>)}
            </g>
          ))}
        </svg>
      </div>
      <ScoreTable evidence={evidence} />
    </figure>
  );
}

function ScoreTable({ evidence }: { evidence: Evidence }) {
  const rows: [string, Scores][] = [
    ["full model", evidence.full], ["circuit", evidence.circuit], ["attribution", evidence.attribution],
    ["integrated gradients", evidence.integrated], ["empty circuit", evidence.empty],
    ...evidence.random.map((each, at): [string, Scores] => [`random ${at + 1}`, each]),
  ];
  const cell = (each: Estimate | null) => (each ? <>{number(each.mean)} <small>{interval(each)}</small></> : "–");
  const columns = [{ name: "", text: true }, ...["KL (nats)", "faithfulness", "logit difference", "accuracy", "exact match"].map((name) => ({ name }))];
  return (
    <Table summary="All scores as a table" columns={columns} count={rows.length}
      row={(at) => [rows[at][0], ...(["kl", "faithfulness", "logit_difference", "accuracy", "exact_match"] as const).map((part) => cell(rows[at][1][part]))]} />
  );
}

export function ticks(most: number, count = 5): number[] {
  const rough = most / count;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((each) => each * unit).find((each) => each >= rough)!;
  return Array.from({ length: Math.floor(most / step) + 1 }, (_, at) => Number((at * step).toPrecision(6)));
}

function Commands({ run: { commands } }: { run: Run }) {
  const [copied, setCopied] = useState(false);
  if (!commands.length) return null;
  const text = commands.map((each) => each.replaceAll(" --", " \\\n    --")).join("\n");
  const copy = (): void => void navigator.clipboard?.writeText(text).then(() => setCopied(true), () => setCopied(false));
  return (
    <details class="commands">
      <summary>Make it again</summary>
      <div>
        <pre tabIndex={0}>{text}</pre>
        <button type="button" onClick={copy}>{copied ? "Copied" : "Copy"}</button>
      </div>
    </details>
  );
}
