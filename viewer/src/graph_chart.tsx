// The drawing: what is shown of the graph as SVG, its strongest links, and which item the reader looks at. The whole
// drawing is one stop of the keyboard: arrow keys walk over its items, Enter chooses one, Escape lets it go.
import { useState } from "preact/hooks";
import { diverging, useWidth } from "./canvas";
import { type Layout, SLOT, type Spot, layout } from "./graph_layout";
import { isChanged } from "./graph_live_state";
import { type Item, type Link, word } from "./graph_model";
import { chosen, expand, graph, items, links, selected } from "./graph_state";
import { number, percent, signed } from "./format";
import { dark } from "./state";

const DRAWN = 260; // links
const OWN = 160; // of an item that is looked at
const SMALLEST = 2.6; // px of a radius
const LARGEST = 7.5;
const LETTER = 7.4; // px of a letter of a token

export function Chart() {
  const [box, width] = useWidth<HTMLDivElement>();
  const [under, setUnder] = useState(-1);
  const shown = items.value;
  const found = layout(graph.value, shown, Math.max(width, 260));
  const focus = under >= 0 && under < shown.length ? under : selected.value;
  const touching = focus < 0 ? links.value.slice(0, DRAWN) : links.value.filter((each) => each.from === focus || each.to === focus).slice(0, OWN);
  const near = new Set(focus < 0 ? shown.keys() : [focus, ...touching.flatMap((each) => [each.from, each.to])]);
  const most = Math.max(...shown.map((each) => (inner(each) ? each.influence : 0)), 1e-12);
  const itemOf = (event: Event): number => Number((event.target as Element).closest("[data-item]")?.getAttribute("data-item") ?? -1);
  const choose = (at: number): void => void (chosen.value = at < 0 || shown[at].key === chosen.value ? null : shown[at].key);
  const walk = (event: KeyboardEvent): void => {
    if (event.key === "Escape") return void (setUnder(-1), (chosen.value = null));
    if ((event.key === "Enter" || event.key === " ") && focus >= 0) return void (event.preventDefault(), choose(focus));
    if (event.key === "+" && focus >= 0 && shown[focus].kind === "group") return void (setUnder(-1), expand(shown[focus]));
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!step) return;
    event.preventDefault();
    setUnder(next(found.spots, focus, step as [number, number]));
  };
  return (
    <>
      <div class="chart graph-chart" ref={box}>
        {width > 0 && (
          <svg id="graph" width={width} height={found.height} viewBox={`0 0 ${width} ${found.height}`} tabindex={0} role="application" onKeyDown={walk}
            aria-label="The graph. Arrow keys move between nodes, Enter shows the inputs and outputs of one, plus opens a group, Escape lets go. The tables below have the same."
            onPointerMove={(event) => event.pointerType === "mouse" && setUnder(itemOf(event))} onPointerLeave={() => setUnder(-1)} onClick={(event) => choose(itemOf(event))}>
            <Rows found={found} width={width} />
            <g fill="none">{touching.toReversed().map((link) => <Path link={link} from={found.spots[link.from]} to={found.spots[link.to]} most={touching[0].flow} single={focus >= 0} />)}</g>
            {shown.map((item, at) => <Mark key={item.key} item={item} at={at} spot={found.spots[at]} most={most} faint={!near.has(at)} focus={at === focus} slanted={found.slanted} />)}
          </svg>
        )}
      </div>
      <p class="focus" id="graph-focus" aria-live="polite">{focus >= 0 ? <About item={shown[focus]} /> : <span class="soft">Point at a node, or walk over them with the arrow keys; press it to see its inputs and outputs.</span>}</p>
    </>
  );
}

const inner = (item: Item): boolean => item.kind !== "token" && item.kind !== "target";

function Rows({ found, width }: { found: Layout; width: number }) {
  let last = Infinity;
  const roomy = found.rows.toReversed().filter(({ y }) => (last - y >= 13 ? ((last = y), true) : false));
  return (
    <g class="rows">
      {roomy.map(({ name, y }) => <><line x1={28} x2={width} y1={y} y2={y} /><text x={22} y={y + 4} text-anchor="end">{name}</text></>)}
    </g>
  );
}

function Path({ link, from, to, most, single }: { link: Link; from: Spot; to: Spot; most: number; single: boolean }) {
  const strength = Math.sqrt(link.flow / most);
  const bend = (from.y - to.y) * 0.45;
  return <path d={`M${from.x.toFixed(1)} ${from.y.toFixed(1)}C${from.x.toFixed(1)} ${(from.y - bend).toFixed(1)} ${to.x.toFixed(1)} ${(to.y + bend).toFixed(1)} ${to.x.toFixed(1)} ${to.y.toFixed(1)}`}
    stroke={diverging(Math.sign(link.effect) * (0.45 + 0.55 * strength), dark.value)} stroke-width={(0.6 + 3.4 * strength).toFixed(2)}
    stroke-opacity={Math.min(1, (single ? 0.35 : 0.12) + 0.6 * strength).toFixed(2)} />;
}

interface MarkProps { item: Item; at: number; spot: Spot; most: number; faint: boolean; focus: boolean; slanted: boolean }

function Mark({ item, at, spot: { x, y, width }, most, faint, focus, slanted }: MarkProps) {
  const look = `mark ${item.kind}${faint ? " faint" : ""}${focus ? " at" : ""}${item.key === chosen.value ? " chosen" : ""}${isChanged(item) ? " off" : ""}`;
  const named = { "data-item": at, class: look, "data-name": item.name };
  if (!inner(item)) return <Ending item={item} x={x} y={y} width={width} slanted={slanted} named={named} />;
  const strength = Math.sqrt(item.influence / most);
  const size = Math.min(SMALLEST + (LARGEST - SMALLEST) * strength, SLOT / 2 - 1);
  const fill = diverging(0.12 + 0.88 * strength, dark.value);
  if (item.kind === "feature") return <circle {...named} cx={x} cy={y} r={size} fill={fill} />;
  if (item.kind === "error") return <path {...named} d={`M${x} ${y - size - 1}L${x + size + 1} ${y}L${x} ${y + size + 1}L${x - size - 1} ${y}Z`} stroke={diverging(0.4 + 0.6 * strength, dark.value)} />;
  return (
    <g {...named}>
      <rect x={x - 8} y={y - 8} width={16} height={16} rx={3.5} fill={fill} />
      <text x={x} y={y + 3.6} class={strength > 0.62 ? "on" : ""}>{item.members.length}</text>
    </g>
  );
}

interface EndingProps { item: Item; x: number; y: number; width: number; slanted: boolean; named: Record<string, unknown> }

function Ending({ item, x, y, width, slanted, named }: EndingProps) {
  const { file } = graph.value.page;
  const target = item.kind === "target";
  const index = item.members[0] - (graph.value.nodes.length - file.targets.length);
  const text = target ? word(file.targets[index].label) : word(file.words[graph.value.nodes[item.place].position]);
  if (!target && slanted) return <g {...named}><circle cx={x} cy={y} r={4} /><text x={0} y={0} text-anchor="end" transform={`translate(${x + 4} ${y + 16}) rotate(-52)`}>{cut(text, 12)}</text></g>;
  const both = target ? ` ${number(file.targets[index].weight)}` : "";
  const weight = (text.length + both.length) * LETTER <= width - 8 ? both : "";
  return (
    <g {...named}>
      <rect x={x - width / 2} y={y - 11} width={width} height={22} rx={4} />
      <text x={x} y={y + 4} text-anchor="middle">{cut(text, Math.floor((width - 8) / LETTER) - weight.length)}<tspan>{weight}</tspan></text>
    </g>
  );
}

const cut = (text: string, most: number): string => (text.length <= Math.max(most, 1) ? text : `${text.slice(0, Math.max(most - 1, 1))}…`);

function About({ item }: { item: Item }) {
  const { nodes, page } = graph.value;
  const { activation, position, layer, share } = nodes[item.place];
  return (
    <>
      <b>{item.name}</b>
      {inner(item) && <span>layer {layer} at <b>{word(page.file.words[position])}</b></span>}
      {item.kind === "target" ? <span>weight {number(graph.value.start(item.place))}</span> : <span>influence {number(item.influence, 3)}</span>}
      {item.kind === "feature" && <span>activation {signed(activation!)}</span>}
      {item.kind === "feature" && <span class="soft">in the first {percent(share)} of the influence</span>}
    </>
  );
}

// The nearest item that way, those straight ahead before those at the side; the first step goes to the lowest at the left.
function next(spots: Spot[], from: number, [right, down]: [number, number]): number {
  if (from < 0) return spots.reduce((best, spot, at) => (spot.y > spots[best].y || (spot.y === spots[best].y && spot.x < spots[best].x) ? at : best), 0);
  const { x, y } = spots[from];
  let [best, least] = [from, Infinity];
  spots.forEach((spot, at) => {
    const [ahead, aside] = right ? [(spot.x - x) * right, Math.abs(spot.y - y)] : [(spot.y - y) * down, Math.abs(spot.x - x)];
    const far = ahead + 3 * aside;
    if (at !== from && ahead > 1 && far < least) [best, least] = [at, far];
  });
  return best;
}
