// The size of the circuit, by a slider, and what was measured at every size: faithfulness and KL.
import { counted, number, percent, plural, whole } from "./format";
import type { Curve, Estimate, Order, Point } from "./payload";
import { curve, order, run, size, sizes, study } from "./state";
import { Table } from "./table";
import { useWidth } from "./canvas";
import { ticks } from "./intervals";

const STEPS = 600;
const SMALLEST = 0.001; // share of the items at the slider's left end

const toShare = (step: number): number => SMALLEST ** (1 - step / STEPS);
const toStep = (share: number): number => STEPS * (1 - Math.log(Math.max(share, SMALLEST)) / Math.log(SMALLEST));

// The measured points on either side of a size, and what lies between them on the logarithm of size.
function between(found: Curve, share: number, read: (point: Point) => Estimate | null): { value: number; exact: boolean } | null {
  const points = found.points.filter((each) => read(each));
  const after = points.findIndex((each) => each.fraction >= share - 1e-9);
  if (after < 0) return null;
  const high = points[after];
  const low = points[after - 1];
  if (!low || Math.abs(high.fraction - share) < 1e-4 * share) return { value: read(high)!.mean, exact: Math.abs(high.fraction - share) < 1e-4 * share };
  const at = Math.log(share / low.fraction) / Math.log(high.fraction / low.fraction);
  return { value: read(low)!.mean + at * (read(high)!.mean - read(low)!.mean), exact: false };
}

export function Sizing() {
  const { total, found, finest } = study.value;
  const items = size.value ?? found;
  const share = items / total;
  const set = (step: number): void => void (size.value = Math.max(1, Math.floor(toShare(step) * total + 1e-6)));
  return (
    <div class="sizing">
      <div class="slider">
        <label for="size">Size</label>
        <input id="size" type="range" min={0} max={STEPS} step={1} value={toStep(share)} aria-valuetext={`${percent(share)} of ${finest.map(plural).join(" and ")}`}
          onInput={(event) => set(Number(event.currentTarget.value))} />
        <output for="size" id="share">{percent(share)}</output>
        <button type="button" class={size.value === null ? "on" : ""} aria-pressed={size.value === null} onClick={() => (size.value = null)}>As found</button>
        {run.value.effects && <Orders />}
      </div>
      <p class="readout" id="readout" aria-live="polite">
        <span>{size.value === null ? "The circuit as it was found" : `The first ${whole(items)} of ${whole(total)} ${finest.map(plural).join(" and ")}`}</span>
        {Object.entries(sizes.value).filter(([kind]) => ["head", "mlp", "neuron", "edge"].includes(kind)).map(([kind, each]) => (
          <span><data id={`kept-${kind}`} value={each.kept}>{whole(each.kept)}</data> {counted(kind, each.kept)}</span>
        ))}
        <Expected share={share} />
      </p>
    </div>
  );
}

function Orders() {
  const choose = (each: Order): void => void (order.value = each);
  return (
    <span class="choice" role="group" aria-label="Rank by">
      {([["magnitude", "by magnitude"], ["score", "by sign"]] as [Order, string][]).map(([each, name]) => (
        <button type="button" class={order.value === each ? "on" : ""} aria-pressed={order.value === each} onClick={() => choose(each)}>{name}</button>
      ))}
    </span>
  );
}

function Expected({ share }: { share: number }) {
  const { evidence } = run.value;
  if (size.value === null) {
    const { effect } = evidence?.circuit ?? {};
    if (effect) return <span>effect {number(effect.mean)}</span>;
    return evidence ? <span>KL {number(evidence.circuit.kl.mean)}, faithfulness {evidence.circuit.faithfulness ? number(evidence.circuit.faithfulness.mean) : "–"}</span> : null;
  }
  const found = curve.value;
  if (!found) return <span class="soft">not measured at other sizes</span>;
  const kl = between(found, share, (each) => each.kl);
  const faithful = between(found, share, (each) => each.faithfulness);
  if (!kl) return null;
  const about = kl.exact ? "" : "≈ ";
  return (
    <span title={kl.exact ? "measured" : "read off between two measured sizes"}>
      KL {about}{number(kl.value)}{faithful && `, faithfulness ${about}${number(faithful.value)}`}
    </span>
  );
}

export function Curves() {
  const found = curve.value;
  if (run.value.traced) return null; // `Budgets` has its sizes
  if (!found) {
    return <p class="absent">No curve over sizes has been measured. <code>subcircuit score {run.value.folder} --full</code> makes it, and this slider then shows faithfulness at every size.</p>;
  }
  return (
    <figure class="curves">
      <figcaption>
        <h2>At every size</h2>
        <p>{found.total.toLocaleString("en")} {found.total === study.value.total ? study.value.finest.map(plural).join(" and ") : "items"}, ranked by {found.order === "score" ? "score" : "magnitude"}; dots were measured, bands are 95% intervals. The diamond is the circuit as it was found.</p>
      </figcaption>
      <div class="pair">
        <Plot name="Faithfulness" found={found} read={(each) => each.faithfulness} ideal={1} own={run.value.evidence?.circuit.faithfulness} />
        <Plot name="KL (nats)" found={found} read={(each) => each.kl} ideal={0} own={run.value.evidence?.circuit.kl} />
      </div>
      <Table summary="The curve as a table" columns={["size", "items", "faithfulness", "KL (nats)"].map((name) => ({ name }))} count={found.points.length}
        row={(at) => {
          const { fraction, items, faithfulness, kl } = found.points[at];
          return [percent(fraction), whole(items), faithfulness ? number(faithfulness.mean) : "–", kl ? number(kl.mean) : "–"];
        }} />
    </figure>
  );
}

interface PlotProps { name: string; found: Curve; read: (point: Point) => Estimate | null; ideal: number; own?: Estimate | null }

const HEIGHT = 190;
const [LEFT, RIGHT, TOP, BOTTOM] = [34, 10, 24, 24];

function Plot({ name, found, read, ideal, own }: PlotProps) {
  const [box, width] = useWidth<HTMLDivElement>();
  const points = found.points.filter(read).map((each) => ({ share: each.fraction, ...read(each)! }));
  const high = Math.max(1e-6, ideal, ...points.map((each) => each.high), own?.high ?? 0);
  const low = Math.min(0, ...points.map((each) => each.low));
  const x = (share: number): number => LEFT + (toStep(share) / STEPS) * (width - LEFT - RIGHT);
  const y = (value: number): number => TOP + ((high - value) / (high - low)) * (HEIGHT - TOP - BOTTOM);
  const { total, found: kept } = study.value;
  const marker = (size.value ?? kept) / total;
  const line = points.map((each) => `${x(each.share)},${y(each.mean)}`).join(" ");
  const band = [...points.map((each) => [each.share, each.high]), ...points.toReversed().map((each) => [each.share, each.low])];
  const pick = (event: PointerEvent): void => {
    if (event.buttons !== 1) return;
    const at = (event.clientX - box.current!.getBoundingClientRect().left - LEFT) / (width - LEFT - RIGHT);
    size.value = Math.max(1, Math.floor(toShare(STEPS * Math.max(0, Math.min(1, at))) * total + 1e-6));
  };
  return (
    <div ref={box}>
      <svg width={width} height={HEIGHT} viewBox={`0 0 ${width} ${HEIGHT}`} role="img" aria-label={`${name} against size; the table below has the numbers`} onPointerDown={pick} onPointerMove={pick}>
        <text x={0} y={11} class="name">{name}</text>
        {ticks(high, 3).map((tick) => <g class="tick"><line x1={LEFT} x2={width - RIGHT} y1={y(tick)} y2={y(tick)} /><text x={LEFT - 6} y={y(tick) + 4} text-anchor="end">{tick}</text></g>)}
        {[0.001, 0.01, 0.1, 1].map((share) => <text class="soft" x={x(share)} y={HEIGHT - 6} text-anchor={share === 1 ? "end" : "middle"}>{percent(share)}</text>)}
        <polygon class="band" points={band.map(([share, value]) => `${x(share)},${y(value)}`).join(" ")} />
        <polyline class="curve" points={line} />
        {points.map((each) => <circle class="dot" cx={x(each.share)} cy={y(each.mean)} r={3}><title>{`${percent(each.share)}: ${number(each.mean)} (${interval(each)})`}</title></circle>)}
        <line class="marker" x1={x(marker)} x2={x(marker)} y1={TOP} y2={HEIGHT - BOTTOM} />
        {own && <path class="own" transform={`translate(${x(kept / total)} ${y(own.mean)})`} d="M0-6 6 0 0 6-6 0Z"><title>{`as found: ${number(own.mean)}`}</title></path>}
      </svg>
    </div>
  );
}

const interval = (each: Estimate): string => `${number(each.low)} – ${number(each.high)}`;
