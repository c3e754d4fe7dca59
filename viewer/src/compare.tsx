// Two runs side by side: their numbers, and in one grid what only one of them keeps, and what both do.
import { useState } from "preact/hooks";
import { Canvas, type Colours, type Draw } from "./canvas";
import { interval, label, number, percent, plural, whole } from "./format";
import type { Run } from "./payload";
import { payload, studies } from "./state";
import { Table } from "./table";

const MARGIN = 44;

export function Compare() {
  const { runs, comparison } = payload.value;
  const [pair, setPair] = useState<[number, number]>([0, 1]);
  if (!comparison) return null;
  const [first, second] = pair.map((at) => runs[at]);
  const met = comparison.together.find((each) => each.first === first.folder && each.second === second.folder)
    ?? comparison.together.find((each) => each.first === second.folder && each.second === first.folder);
  const turned = met?.first !== first.folder;
  const choose = (side: 0 | 1, at: number): void => setPair(side ? [pair[0] === at ? pair[1] : pair[0], at] : [at, pair[1] === at ? pair[0] : pair[1]]);
  return (
    <section class="compare" id="compare">
      <h2>Side by side</h2>
      {comparison.differences.length > 0 && (
        <p class="warnings-line">Not measured alike: {comparison.differences.map((each) => `${each.what} (${each.values.join(" / ")})`).join("; ")}. Their numbers are not to be compared.</p>
      )}
      <div class="sides">
        {([0, 1] as const).map((side) => (
          <div class={side ? "side second" : "side first"}>
            <label><span>{side ? "Second run" : "First run"}</span>
              <select value={pair[side]} onChange={(event) => choose(side, Number(event.currentTarget.value))}>
                {runs.map((each, at) => <option value={at}>{`${label(each)} (${each.folder})`}</option>)}
              </select>
            </label>
            <Numbers run={side ? second : first} />
          </div>
        ))}
      </div>
      {met?.kl_difference && <p>KL of the first minus the second, prompt by prompt: <b>{number((turned ? -1 : 1) * met.kl_difference.mean)}</b> nats ({interval(turned ? { mean: 0, low: -met.kl_difference.high, high: -met.kl_difference.low } : met.kl_difference)}).</p>}
      <Canvas label="What only the first, only the second, and both runs keep, head by head and layer by layer" height={(width) => gridHeight(first, width)} paint={painted(pair)} />
      <p class="legend"><span><b class="swatch both" /> both keep it</span><span><b class="swatch first" /> only the first</span><span><b class="swatch second" /> only the second</span><span><b class="swatch" /> neither</span></p>
      {met && (
        <Table open summary="Overlap, kind by kind" count={Object.keys(met.kinds).length}
          columns={[{ name: "", text: true }, ...["only first", "only second", "both", "of", "Jaccard", "by chance"].map((name) => ({ name }))]}
          row={(at) => {
            const [kind, each] = Object.entries(met.kinds)[at];
            const alone = turned ? [each.only_second, each.only_first] : [each.only_first, each.only_second];
            return [plural(kind), ...alone.map(whole), whole(each.both), whole(each.total), each.jaccard ? <>{number(each.jaccard.mean)} <small>{interval(each.jaccard)}</small></> : "–", each.by_chance === null ? "–" : number(each.by_chance)];
          }} />
      )}
    </section>
  );
}

function Numbers({ run: { evidence, sizes, verdict, origin, traced } }: { run: Run }) {
  return (
    <dl>
      <div><dt>task, model</dt><dd>{origin.task}, {origin.model}</dd></div>
      {evidence?.circuit.effect && <div><dt>effect on {String(origin.settings.metric)}</dt><dd>{number(evidence.circuit.effect.mean)} <small>{interval(evidence.circuit.effect)}</small></dd></div>}
      {evidence && !evidence.circuit.effect && <div><dt>KL</dt><dd>{number(evidence.circuit.kl.mean)} <small>{interval(evidence.circuit.kl)}</small></dd></div>}
      {evidence?.circuit.faithfulness && !evidence.circuit.effect && <div><dt>faithfulness</dt><dd>{number(evidence.circuit.faithfulness.mean)} <small>{interval(evidence.circuit.faithfulness)}</small></dd></div>}
      {Object.entries(sizes).filter(([kind]) => ["head", "mlp", "neuron", "edge"].includes(kind)).map(([kind, each]) => (
        <div><dt>{plural(kind)}{traced && " replaced"}</dt><dd>{whole(each.kept)} <small>{percent(each.kept / each.total)}</small></dd></div>
      ))}
      <div><dt>verdict</dt><dd>{verdict || "not scored"}</dd></div>
    </dl>
  );
}

const rowsOf = (run: Run): number => (run.grids.head ? run.units.head : 0) + 1;
const cellHeight = (run: Run, width: number): number => Math.max(6, Math.min((width - MARGIN) / run.layers, 20, 420 / rowsOf(run)));
const gridHeight = (run: Run, width: number): number => rowsOf(run) * cellHeight(run, width) + 28;

function painted([one, other]: [number, number]): Draw {
  const [first, second] = [studies.value[one], studies.value[other]];
  return (pen, width, colours) => {
    const { run } = first;
    const [wide, tall, rows] = [(width - MARGIN) / run.layers, cellHeight(run, width), rowsOf(run)];
    pen.clearRect(0, 0, width, gridHeight(run, width));
    pen.font = "11px system-ui, sans-serif";
    pen.fillStyle = colours.soft;
    pen.fillText("heads", 0, 11);
    pen.fillText("MLP", 0, (rows - 1) * tall + 8 + tall / 2 + 3);
    pen.fillText("layer", 0, rows * tall + 22);
    for (let layer = 0; layer < run.layers; layer++) {
      for (let row = 0; row < rows; row++) {
        const [kind, at] = row === rows - 1 ? ["mlp", layer] : ["head", layer * run.units.head + row];
        pen.fillStyle = tint([first, second].map((each) => each.kept[kind]?.[at] === 1) as [boolean, boolean], colours);
        pen.fillRect(MARGIN + layer * wide, row * tall + (row === rows - 1 ? 8 : 0), wide - 2, tall - 2);
      }
      if (wide > 15 || layer % Math.ceil(18 / wide) === 0) {
        pen.fillStyle = colours.soft;
        pen.fillText(String(layer), MARGIN + layer * wide + 2, rows * tall + 22);
      }
    }
  };
}

function tint([first, second]: [boolean, boolean], colours: Colours): string {
  if (first && second) return colours.ink;
  return first ? colours.cool : second ? colours.warm : colours.pruned;
}

