// Prompt by prompt: a mean hides the few on which a circuit fails, so these stand first.
import { useState } from "preact/hooks";
import { Canvas, type Draw } from "./canvas";
import { number, signed, whole } from "./format";
import { run } from "./state";
import { Table } from "./table";
import { chosen, plain } from "./tokens";

export function Prompts() {
  const [spot, setSpot] = useState<number | null>(null);
  const { evidence, full, tokens, traced } = run.value;
  if (!evidence) return null;
  const { kl, logit_difference: inside, full_logit_difference: whole_, empty_logit_difference: empty, effect } = evidence.prompts;
  const [values, name] = traced && effect ? [effect, "effect"] : [kl, "KL"];
  const rows = Array.from(values.keys()).sort((a, b) => (traced && effect ? values[a] - values[b] : values[b] - values[a]));
  const texts = new Map([...(tokens?.prompts ?? []).map((each): [number, string] => [each.row, plain(each.clean)]), ...(full?.outliers.prompts ?? []).map((each): [number, string] => [each.row, each.text])]);
  const stored = new Set(tokens?.prompts.map((each) => each.row));
  const fence = full?.outliers.fence ?? null;
  const look = (row: number): void => void (stored.has(row) && (chosen.value = `row ${row}`));
  const walk = (event: KeyboardEvent): void => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (event.key === "Enter" && spot !== null) look(rows[spot]);
    if (!by) return;
    event.preventDefault();
    setSpot(Math.max(0, Math.min(rows.length - 1, (spot ?? -by) + by)));
  };
  const pick = (x: number, _: number, event: PointerEvent): void => {
    const at = Math.min(rows.length - 1, Math.max(0, Math.floor(x / barWidth((event.currentTarget as HTMLElement).clientWidth, rows.length))));
    setSpot(at);
    if (event.type === "pointerdown") look(rows[at]);
  };
  const faithfulness = (row: number): string => (whole_ && empty && Math.abs(whole_[row] - empty[row]) > GAP ? number((inside[row] - empty[row]) / (whole_[row] - empty[row])) : "–");
  const ends = whole_ && empty;
  const columns = [{ name: "row" }, { name: traced && effect ? "effect" : "KL (nats)" }, ...(ends && !traced ? [{ name: "faithfulness" }] : []), { name: "logit difference" },
    ...(ends ? [{ name: traced ? "nothing replaced" : "full model" }, { name: traced ? "everything" : "empty" }] : []), ...(texts.size ? [{ name: "prompt", wide: true }] : [])];
  return (
    <figure>
      <figcaption>
        <h2>Prompt by prompt</h2>
        <p>{traced && effect ? "Effect" : "KL"} of each of the {whole(rows.length)} prompts, the worst first.{full && full.outliers.count > 0 && ` ${whole(full.outliers.count)} of them ${full.outliers.count === 1 ? "is" : "are"} far from the rest (dashed line: the upper quartile and 1.5 interquartile ranges).`}{stored.size > 0 && " A click on a bar shows its tokens below, where the file has them."}</p>
      </figcaption>
      <Canvas label={`${name} of every prompt, the worst first. Left and right arrow keys read them one by one, Enter shows their tokens.`} id="prompts" height={() => 120}
        paint={painted(rows.map((row) => values[row]), fence, spot)} onPlace={pick} onKeyDown={walk} onPointerLeave={() => setSpot(null)} />
      <p class="focus" aria-live="polite">{spot !== null ? <><b>prompt {rows[spot]}</b> <span>{name} {number(values[rows[spot]])}</span> <span>logit difference {signed(inside[rows[spot]])}</span> <span>{texts.get(rows[spot]) ?? ""}</span></> : <span class="soft">Point at a bar to read it.</span>}</p>
      <Table summary="Prompts as a table, the worst first" columns={columns} count={rows.length} open={(full?.outliers.count ?? 0) > 0}
        row={(at) => [rows[at], number(values[rows[at]]), ...(ends && !traced ? [faithfulness(rows[at])] : []), signed(inside[rows[at]]),
          ...(ends ? [signed(whole_[rows[at]]), signed(empty[rows[at]])] : []), ...(texts.size ? [texts.get(rows[at]) ?? ""] : [])]} />
    </figure>
  );
}

const GAP = 1e-6; // logits below which the full and the empty circuit do the same

// A few prompts do not need the whole width.
const barWidth = (width: number, count: number): number => Math.min(36, width / count);

function painted(values: number[], fence: number | null, spot: number | null): Draw {
  const most = Math.max(...values.map(Math.abs), 1e-6);
  return (pen, width, colours) => {
    const wide = barWidth(width, values.length);
    pen.clearRect(0, 0, width, 120);
    values.forEach((value, at) => {
      const tall = Math.max(1, (Math.abs(value) / most) * 104);
      pen.fillStyle = at === spot ? colours.ink : value < 0 ? colours.warm : fence !== null && value > fence ? colours.warm : colours.cool;
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
