// Numbers with their intervals, one row a name, the first row the one that the others are held against.
import { useWidth } from "./canvas";
import { number } from "./format";
import type { Estimate } from "./payload";

const ROW = 26;

export function Intervals({ rows, label }: { rows: [string, Estimate[]][]; label: string }) {
  const [box, width] = useWidth<HTMLDivElement>();
  const all = rows.flatMap(([, each]) => each);
  const [least, most] = [Math.min(0, ...all.map((each) => each.low)), Math.max(...all.map((each) => each.high), 1e-6)];
  const left = width < 480 ? 136 : 150;
  const x = (value: number): number => left + ((value - least) / (most - least)) * (width - left - 14);
  return (
    <div ref={box}>
      <svg width={width} height={rows.length * ROW + 26} viewBox={`0 0 ${width} ${rows.length * ROW + 26}`} role="img" aria-label={label}>
        {ticks(most).map((tick) => (
          <g class="tick"><line x1={x(tick)} x2={x(tick)} y1={4} y2={rows.length * ROW + 4} /><text x={x(tick)} y={rows.length * ROW + 20} text-anchor="middle">{tick}</text></g>
        ))}
        {rows.map(([name, each], row) => (
          <g class={row ? "control" : "control own"} transform={`translate(0 ${row * ROW + ROW / 2 + 4})`}>
            <text x={left - 12} y={4} text-anchor="end">{name}</text>
            {each.length === 1 && <line x1={x(each[0].low)} x2={x(each[0].high)} />}
            {each.map((one) => <circle cx={x(one.mean)} r={row ? 4 : 5.5}><title>{`${name}: ${number(one.mean)}`}</title></circle>)}
          </g>
        ))}
      </svg>
    </div>
  );
}

export function ticks(most: number, count = 5): number[] {
  const rough = most / count;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((each) => each * unit).find((each) => each >= rough)!;
  return Array.from({ length: Math.floor(most / step) + 1 }, (_, at) => Number((at * step).toPrecision(6)));
}
