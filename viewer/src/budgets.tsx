// A causal tracing at every budget it was asked for: what replacing its k components does, beside other sets of k.
import { useWidth } from "./canvas";
import { interval, number, whole } from "./format";
import { ticks } from "./intervals";
import type { Budget, Estimate, Run } from "./payload";
import { payload, run } from "./state";
import { Table } from "./table";

const HEIGHT = 300;
const [TOP, BOTTOM, LEFT] = [18, 34, 40];
const NAMES = 60; // components that a cell of the table lists

interface Point { k: number; mean: number; low: number; high: number }
interface Line { name: string; style: string; points: Point[] }

const mean = (values: number[]): number => values.reduce((sum, each) => sum + each, 0) / values.length;

export function Budgets() {
  const { traced, budgets, searches, folder } = run.value;
  if (!traced) return null;
  const lines = linesOf(run.value);
  const everything = searches?.everything ?? budgets.at(-1)?.everything;
  if (!everything) return <p class="absent">Not scored yet: <code>subcircuit score {folder}</code> measures what replacing these components does.</p>;
  const several = lines.some((each) => each.points.length > 1);
  return (
    <figure id="budgets">
      <figcaption>
        <h2>At every budget</h2>
        <p>Effect on {metric(run.value)} of replacing k components together, with 95% intervals: by this run's search, by others, and of as many that gradients or lots choose. Higher is better; “everything” is what all components do together.</p>
      </figcaption>
      {several ? <Plot lines={lines} everything={everything.mean} /> : <p class="absent">One size has been scored. <code>--budgets 2,5,10</code> finds several at once, <code>subcircuit score</code> of each subfolder adds it here, and <code>--rivals singles,random</code> other searches.</p>}
      <Components />
      <Sizes lines={lines} />
      {searches && (
        <Table summary="What each search took" columns={[{ name: "search", text: true }, { name: "passes of a prompt" }, { name: "seconds" }]} count={Object.keys(searches.curves).length}
          row={(at) => {
            const [name, points] = Object.entries(searches.curves)[at];
            return [name, whole(points.at(-1)!.passes), number(points.at(-1)!.seconds)];
          }} />
      )}
    </figure>
  );
}

// What is replaced at each size; of nested sets, what comes in.
function Components() {
  const { budgets, searches } = run.value;
  const sets = (searches ? searches.curves[searches.own] : budgets).map(({ k, nodes }) => ({ k, nodes }));
  return (
    <Table open summary="Components, size by size" columns={[{ name: "k" }, { name: "components", wide: true }]} count={sets.length}
      row={(at) => {
        const { k, nodes } = sets[at];
        const before = at ? sets[at - 1].nodes : [];
        const nested = at > 0 && before.every((each) => nodes.includes(each));
        const listed = nested ? nodes.filter((each) => !before.includes(each)) : nodes;
        return [k, <code>{nested && "those and "}{listed.slice(0, NAMES).join(" ")}{listed.length > NAMES && ` and ${whole(listed.length - NAMES)} more`}</code>];
      }} />
  );
}

function Sizes({ lines }: { lines: Line[] }) {
  const ks = [...new Set(lines.flatMap((each) => each.points.map((point) => point.k)))].sort((a, b) => a - b);
  return (
    <Table summary="Effects as a table" columns={[{ name: "k" }, ...lines.map(({ name }) => ({ name }))]} count={ks.length}
      row={(at) => [ks[at], ...lines.map((each) => {
        const point = each.points.find(({ k }) => k === ks[at]);
        return point ? <>{number(point.mean)} <small>{interval(point)}</small></> : "–";
      })]} />
  );
}

const metric = ({ origin }: Run): string => String(origin.settings.metric ?? "the metric");
const search = ({ origin }: Run): string => String(origin.settings.search ?? "this search");
const drawn = (each: { split: string; pairs: number; seed: number } | null): string => (each ? `${each.split} ${each.pairs} ${each.seed}` : "");
const alike = (a: Run, b: Run): boolean => drawn(a.evidence) === drawn(b.evidence) && a.origin.task === b.origin.task && a.origin.model === b.origin.model
  && a.origin.reference === b.origin.reference && metric(a) === metric(b) && a.origin.settings.direction === b.origin.settings.direction;

// The run itself, other searches of its file, the other runs of this page that were measured alike, and its controls.
function linesOf(own: Run): Line[] {
  const of = (all: Budget[], read: (budget: Budget) => Estimate): Point[] => all.map((each) => ({ k: each.k, ...read(each) }));
  const lot = (each: Budget): Point => {
    const means = each.random.map((one) => one.mean);
    return { k: each.k, mean: mean(means), low: Math.min(...means), high: Math.max(...means) };
  };
  const { budgets, searches } = own;
  const controls = budgets.length && (!searches || drawn(searches) === drawn(own.evidence)) ? [
    { name: "one gradient", style: "rival dashed", points: of(budgets, (each) => each.attribution) },
    { name: "integrated", style: "rival dotted", points: of(budgets, (each) => each.integrated) },
    ...(budgets.every((each) => each.random.length) ? [{ name: "random sets", style: "lots", points: budgets.map(lot) }] : []),
  ] : [];
  const found = searches
    ? Object.entries(searches.curves).map(([name, points]): [string, Point[]] => [name, points.map((each) => ({ k: each.size, ...each.effect }))])
    : [own, ...payload.value.runs.filter((each) => each !== own && each.budgets.length && alike(each, own))].map((each): [string, Point[]] => [search(each), of(each.budgets, (budget) => budget.circuit)]);
  return [...found.filter(([, points]) => points.length).map(([name, points], at) => ({ name, style: at ? `other other-${(at - 1) % 4}` : "own", points })), ...controls];
}

function Plot({ lines, everything }: { lines: Line[]; everything: number }) {
  const [box, width] = useWidth<HTMLDivElement>();
  const points = lines.flatMap((each) => each.points);
  const ks = [...new Set(points.map((each) => each.k))].sort((a, b) => a - b);
  const [high, low] = [Math.max(everything, ...points.map((each) => each.high)), Math.min(0, ...points.map((each) => each.low))];
  const log = ks.at(-1)! / ks[0] >= 8;
  const along = (k: number): number => (ks.length < 2 ? 0.5 : log ? Math.log(k / ks[0]) / Math.log(ks.at(-1)! / ks[0]) : (k - ks[0]) / (ks.at(-1)! - ks[0]));
  const right = width < 480 ? 86 : 110;
  const x = (k: number): number => LEFT + along(k) * (width - LEFT - right - 8);
  const y = (value: number): number => TOP + ((high - value) / (high - low)) * (HEIGHT - TOP - BOTTOM);
  const ends = spaced([...lines.map((each) => each.points.at(-1)!.mean), everything].map(y));
  return (
    <div ref={box} class="budgets">
      <svg width={width} height={HEIGHT} viewBox={`0 0 ${width} ${HEIGHT}`} role="img" aria-label="Effect against the number of replaced components; the table below has the numbers">
        <text x={0} y={11} class="name">Effect</text>
        {ticks(high, 4).map((tick) => <g class="tick"><line x1={LEFT} x2={width - right} y1={y(tick)} y2={y(tick)} /><text x={LEFT - 6} y={y(tick) + 4} text-anchor="end">{tick}</text></g>)}
        {ks.filter((k, at) => !at || x(k) - x(ks[at - 1]) > 14).map((k) => <text x={x(k)} y={HEIGHT - 16} text-anchor="middle">{k}</text>)}
        <text x={LEFT} y={HEIGHT - 1}>components replaced{log && " (logarithmic)"}</text>
        <line class="everything" x1={LEFT} x2={width - right} y1={y(everything)} y2={y(everything)} />
        {lines.toReversed().map((each) => (
          <g class={`line ${each.style}`}>
            {/own|lots/.test(each.style) && <polygon points={[...each.points.map((point) => `${x(point.k)},${y(point.high)}`), ...each.points.toReversed().map((point) => `${x(point.k)},${y(point.low)}`)].join(" ")} />}
            <polyline points={each.points.map((point) => `${x(point.k)},${y(point.mean)}`).join(" ")} />
            {!/own|lots/.test(each.style) && each.points.map((point) => <line x1={x(point.k)} x2={x(point.k)} y1={y(point.high)} y2={y(point.low)} />)}
            {each.points.map((point) => <circle cx={x(point.k)} cy={y(point.mean)} r={3}><title>{`${each.name}, k = ${point.k}: ${number(point.mean)} (${interval(point)})`}</title></circle>)}
          </g>
        ))}
        {lines.map((each, at) => <text class={`end ${each.style}`} x={width - right + 6} y={ends[at] + 4}>{each.name}</text>)}
        <text x={width - right + 6} y={ends.at(-1)! + 4}>everything</text>
      </svg>
    </div>
  );
}

// Labels at the ends of lines, moved apart where they would overlap.
function spaced(wanted: number[], gap = 15): number[] {
  const order = [...wanted.keys()].sort((a, b) => wanted[a] - wanted[b]);
  const placed = [...wanted];
  order.forEach((at, index) => {
    if (index) placed[at] = Math.max(placed[at], placed[order[index - 1]] + gap);
  });
  const over = Math.max(0, placed[order.at(-1)!] - (HEIGHT - BOTTOM));
  return over ? movedUp(placed, order, gap, HEIGHT - BOTTOM) : placed;
}

function movedUp(placed: number[], order: number[], gap: number, floor: number): number[] {
  let limit = floor;
  for (const at of order.toReversed()) {
    placed[at] = Math.min(placed[at], limit);
    limit = placed[at] - gap;
  }
  return placed;
}
