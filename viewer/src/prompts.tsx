// Prompt by prompt: a mean hides the few on which a circuit fails, so these stand first.
import { useState } from "preact/hooks";
import { Canvas, type Draw } from "./canvas";
import { number, signed, whole } from "./format";
import { run } from "./state";
import { Table } from "./table";

export function Prompts() {
  const [spot, setSpot] = useState<number | null>(null);
  const { evidence, full } = run.value;
  if (!evidence) return null;
  const { kl, logit_difference: difference } = evidence.prompts;
  const rows = Array.from(kl.keys()).sort((a, b) => kl[b] - kl[a]);
  const texts = new Map(full?.outliers.prompts.map((each) => [each.row, each.text]));
  const fence = full?.outliers.fence ?? null;
  const walk = (event: KeyboardEvent): void => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    setSpot(Math.max(0, Math.min(rows.length - 1, (spot ?? -by) + by)));
  };
  const pick = (x: number, _: number, event: PointerEvent): void => setSpot(Math.min(rows.length - 1, Math.max(0, Math.floor(x / barWidth((event.currentTarget as HTMLElement).clientWidth, rows.length)))));
  const columns = [{ name: "row" }, { name: "KL (nats)" }, { name: "logit difference" }, ...(texts.size ? [{ name: "prompt", text: true }] : [])];
  return (
    <figure>
      <figcaption>
        <h2>Prompt by prompt</h2>
        <p>KL of each of the {whole(rows.length)} prompts, the worst first.{full && full.outliers.count > 0 && ` ${whole(full.outliers.count)} of them ${full.outliers.count === 1 ? "is" : "are"} far from the rest (dashed line: the upper quartile and 1.5 interquartile ranges).`}</p>
      </figcaption>
      <Canvas label="KL of every prompt, the worst first. Left and right arrow keys read them one by one." id="prompts" height={() => 120}
        paint={painted(rows.map((row) => kl[row]), fence, spot)} onPlace={pick} onKeyDown={walk} onPointerLeave={() => setSpot(null)} />
      <p class="focus" aria-live="polite">{spot !== null ? <><b>prompt {rows[spot]}</b> <span>KL {number(kl[rows[spot]])}</span> <span>logit difference {signed(difference[rows[spot]])}</span> <span>{texts.get(rows[spot]) ?? ""}</span></> : <span class="soft">Point at a bar to read it.</span>}</p>
      <Table summary="Prompts as a table, the worst first" columns={columns} count={rows.length} open={texts.size > 0}
        row={(at) => [rows[at], number(kl[rows[at]]), signed(difference[rows[at]]), ...(texts.size ? [texts.get(rows[at]) ?? ""] : [])]} />
    </figure>
  );
}

// A few prompts do not need the whole width.
const barWidth = (width: number, count: number): number => Math.min(36, width / count);

function painted(values: number[], fence: number | null, spot: number | null): Draw {
  const most = Math.max(...values, 1e-6);
  return (pen, width, colours) => {
    const wide = barWidth(width, values.length);
    pen.clearRect(0, 0, width, 120);
    values.forEach((value, at) => {
      const tall = Math.max(1, (value / most) * 104);
      pen.fillStyle = at === spot ? colours.ink : fence !== null && value > fence ? colours.warm : colours.cool;
      pen.fillRect(at * wide, 116 - tall, Math.max(1, wide - (wide > 4 ? 2 : 0)), tall);
    });
    pen.fillStyle = colours.line;
    pen.fillRect(0, 116, width, 1);
    if (fence === null || fence > most) return;
    pen.strokeStyle = colours.soft;
    pen.setLineDash([4, 4]);
    pen.beginPath();
    pen.moveTo(0, 116 - (fence / most) * 104);
    pen.lineTo(width, 116 - (fence / most) * 104);
    pen.stroke();
    pen.setLineDash([]);
  };
}
