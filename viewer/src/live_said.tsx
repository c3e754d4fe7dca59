// How a live page tells an answer: what went wrong, the next token and what it was, the likeliest tokens, the last answers.
import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import { percent } from "./format";
import type { Asking, Entry, Problem, Token } from "./live_asking";
import { type Column, Table } from "./table";

export type Side = (token: Token) => string; // the class of a token: "right", "wrong" or none

interface SaidProps<Q, A> { asking: Asking<Q, A>; children: (found: A) => ComponentChildren; idle?: string }

export function Said<Q, A>({ asking, children, idle = "Asking the model …" }: SaidProps<Q, A>) {
  const { answer, problem, busy, ahead, taken } = asking;
  const found = answer.value;
  return (
    <div class="said" aria-live="polite" aria-busy={busy.value}>
      <Trouble problem={problem.value} />
      {found ? <div class={problem.value ? "stale" : ""}>{children(found)}</div> : !problem.value && <p class="soft">{idle}</p>}
      <p class="note" id="live-status" data-busy={busy.value ? "yes" : "no"} data-taken={taken.value ?? ""}>
        {busy.value ? <>{ahead.value > 0 ? `${ahead.value} ${ahead.value === 1 ? "question comes" : "questions come"} first` : "asking"} <button type="button" class="plain" onClick={() => asking.cancel()}>Cancel</button></> : taken.value !== null && `answered in ${Math.round(taken.value)} ms`}
      </p>
    </div>
  );
}

export function Trouble({ problem }: { problem: Problem | null }) {
  return problem && <div class="problem" role="alert" id="live-problem"><pre>{problem.message}</pre>{problem.cure && <p>{problem.cure}</p>}</div>;
}

interface Saying { word: ComponentChildren; probability: number } // an answer, and how probable it is

export function Mind({ now, before, same, was, changed }: { now: Saying; before: Saying; same: boolean; was: number; changed: boolean }) {
  if (same) return <><b>{now.word}</b> <span>{changed ? "still" : "next"}, {percent(now.probability)}{changed && <> <small>was {percent(was)}</small></>}</span></>;
  return <><s><b>{before.word}</b></s> <i aria-label="became">→</i> <b>{now.word}</b> <span>{percent(now.probability)} <small>was {percent(was)}</small></span></>;
}

export function NextToken({ top, before, changed, side = () => "" }: { top: Token; before: Token; changed: boolean; side?: Side }) {
  const word = (token: Token): Saying => ({ word: <span class={side(token)}>{shown(token.text)}</span>, probability: token.probability });
  return <Mind now={word(top)} before={word(before)} same={top.id === before.id} was={top.probability_before} changed={changed} />;
}

export const shown = (text: string): string => text.replace(/^ /, "").replace(/\n/g, "⏎") || "␣";

export function Tops({ top, side = () => "" }: { top: Token[]; side?: Side }) {
  const rows = top.map((each) => ({ key: each.id, name: <><code>{shown(each.text)}</code>{side(each) && <small class="unseen"> ({side(each)} answer)</small>}</>, side: side(each), now: each.probability, before: each.probability_before, data: { "data-logit": each.logit, "data-token": each.id } }));
  return <Shares id="live-top" caption="Likeliest next tokens" what="token" rows={rows} />;
}

interface Share { key: string | number; name: ComponentChildren; side?: string; now: number; before: number; random?: number; data?: Record<string, unknown> }

export function Shares({ id, caption, what, rows }: { id: string; caption: string; what: string; rows: Share[] }) {
  const most = Math.max(...rows.flatMap((each) => [each.now, each.before]));
  const beside = rows.some((each) => each.random !== undefined);
  return (
    <table class="tops" id={id}>
      <caption class="soft small">{caption}; the line marks the untouched model</caption>
      <thead><tr><th scope="col" class="text">{what}</th><th scope="col" class="text"><span class="unseen">bar</span></th><th scope="col">now</th><th scope="col">was</th>{beside && <th scope="col" title="with random directions taken out">random</th>}</tr></thead>
      <tbody>
        {rows.map(({ key, name, side = "", now, before, random, data }) => (
          <tr key={key} {...data}>
            <td class={`text ${side}`}>{name}</td>
            <td><div class="gauge"><i style={{ width: `${(100 * now) / most}%` }} class={side} /><b style={{ left: `${(100 * before) / most}%` }} /></div></td>
            <td>{percent(now)}</td><td class="soft">{percent(before)}</td>{random !== undefined && <td class="soft">{percent(random)}</td>}
          </tr>
        ))}
      </tbody>
    </table>
  );
}

export function Copy({ text, label = "Copy" }: { text: string; label?: string }) {
  const [copied, setCopied] = useState("");
  const copy = (): void => void navigator.clipboard?.writeText(text).then(() => setCopied(text), () => setCopied(""));
  return <button type="button" onClick={copy}>{copied === text ? "Copied" : label}</button>;
}

interface PastProps<Q, A> { asking: Asking<Q, A>; columns: Column[]; row: (entry: Entry<Q, A>) => ComponentChildren[]; again: (entry: Entry<Q, A>) => void; more?: (entry: Entry<Q, A>) => ComponentChildren }

// What was asked before, by every page that is open on this model.
export function Past<Q, A>({ asking, columns, row, again, more }: PastProps<Q, A>) {
  const entries = asking.history.value;
  if (!entries.length) return null;
  return (
    <div id="live-history">
      <Table summary={`History, ${entries.length} ${entries.length === 1 ? "question" : "questions"}`} columns={[{ name: "" }, ...columns, { name: "" }]} count={entries.length}
        row={(at) => [entries[at].number, ...row(entries[at]), <span class="doing"><button type="button" onClick={() => again(entries[at])}>Again</button>{more?.(entries[at])}</span>]} />
    </div>
  );
}
