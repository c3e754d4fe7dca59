// What the model says, beside what it said untouched.
import { useState } from "preact/hooks";
import { number, percent, signed } from "./format";
import { type Answer, type Token, ahead, answer, asked, busy, cancel, problem, right, taken, wrong } from "./live_state";

export function Answered() {
  const found = answer.value;
  return (
    <div class="said" aria-live="polite" aria-busy={busy.value}>
      {problem.value && <div class="problem" role="alert" id="live-problem"><pre>{problem.value.message}</pre>{problem.value.cure && <p>{problem.value.cure}</p>}</div>}
      {found ? <div class={problem.value ? "stale" : ""}><Said found={found} /></div> : !problem.value && <p class="soft">Asking the model …</p>}
      <p class="note" id="live-status" data-busy={busy.value ? "yes" : "no"} data-taken={taken.value ?? ""}>
        {busy.value ? <>{ahead.value > 0 ? `${ahead.value} ${ahead.value === 1 ? "question comes" : "questions come"} first` : "asking"} <button type="button" class="plain" onClick={cancel}>Cancel</button></> : taken.value !== null && `answered in ${Math.round(taken.value)} ms`}
      </p>
    </div>
  );
}

// On narrow screens the answer stands below the sliders; this line of it stays in sight.
export function Brief() {
  return answer.value && <p class="mind brief" aria-hidden="true"><Mind found={answer.value} /></p>;
}

function Mind({ found }: { found: Answer }) {
  const [now, before] = [found.top[0], found.top_before[0]];
  const same = now.id === before.id;
  return (
    <>
      {same ? <><Word token={now} /> <span>{changed() ? "still" : "next"}, {percent(now.probability)}{changed() && <> <small>was {percent(now.probability_before)}</small></>}</span></>
        : <><s><Word token={before} /></s> <i aria-label="became">→</i> <Word token={now} /> <span>{percent(now.probability)} <small>was {percent(now.probability_before)}</small></span></>}
    </>
  );
}

function Said({ found }: { found: Answer }) {
  return (
    <>
      <p class="mind" id="live-mind"><Mind found={found} /></p>
      <Numbers found={found} />
      <Tops found={found} />
      <Python text={found.python} />
    </>
  );
}

const changed = (): boolean => asked.value !== null && (asked.value.start === "circuit" || asked.value.changes.some((each) => each.nodes.length > 0));
const shown = (text: string): string => text.replace(/^ /, "").replace(/\n/g, "⏎") || "␣";

function Word({ token }: { token: Token }) {
  return <b class={side(token)}>{shown(token.text)}</b>;
}

function side(token: Token): string {
  const text = token.text.trim();
  return right.value.has(text) ? "right" : wrong.value.has(text) ? "wrong" : "";
}

function Numbers({ found: { full, changed: now, counterfactual, kl } }: { found: Answer }) {
  const difference = now.logit_difference;
  return (
    <dl class="live-numbers">
      <div><dt>KL from the untouched model</dt><dd><data id="live-kl" value={String(kl)}>{number(kl)}</data> <small>nats</small></dd></div>
      {difference !== null && <div><dt>Logit difference</dt><dd><data id="live-difference" value={String(difference)}>{signed(difference)}</data> <small>was {signed(full.logit_difference!)}</small></dd></div>}
      {now.probability !== null && <div><dt>Right answer</dt><dd><data id="live-right" value={String(now.probability)}>{percent(now.probability)}</data> <small>was {percent(full.probability!)}</small></dd></div>}
      {difference !== null && counterfactual?.logit_difference != null && <Scale low={counterfactual.logit_difference} high={full.logit_difference!} now={difference} />}
    </dl>
  );
}

// Where the answer lies between the counterfactual's and the untouched model's.
function Scale({ low, high, now }: { low: number; high: number; now: number }) {
  const [least, most] = [Math.min(low, high, now, 0), Math.max(low, high, now, 0)];
  const x = (value: number): string => `${(100 * (value - least)) / Math.max(most - least, 1e-6)}%`;
  return (
    <div class="scale" role="img" aria-label={`Logit difference ${number(now)}; untouched ${number(high)}, on the counterfactual ${number(low)}`}>
      <i class="zero" style={{ left: x(0) }} />
      <i class="end" style={{ left: x(low) }} title={`on the counterfactual: ${signed(low)}`} />
      <i class="end" style={{ left: x(high) }} title={`untouched: ${signed(high)}`} />
      <i class="now" style={{ left: x(now) }} title={`now: ${signed(now)}`} />
      <small style={{ left: x(low) }} class={low <= high ? "first" : "last"}>counterfactual</small><small style={{ left: x(high) }} class={low <= high ? "last" : "first"}>untouched</small>
    </div>
  );
}

function Tops({ found: { top } }: { found: Answer }) {
  const most = Math.max(...top.flatMap((each) => [each.probability, each.probability_before]));
  return (
    <table class="tops" id="live-top">
      <caption class="soft small">Likeliest next tokens; the line marks the untouched model</caption>
      <thead><tr><th scope="col" class="text">token</th><th scope="col" class="text"><span class="unseen">bar</span></th><th scope="col">now</th><th scope="col">was</th></tr></thead>
      <tbody>
        {top.map((each) => (
          <tr key={each.id} data-logit={each.logit} data-token={each.id}>
            <td class={`text ${side(each)}`}><code>{shown(each.text)}</code>{side(each) && <small class="unseen"> ({side(each)} answer)</small>}</td>
            <td><div class="bar"><i style={{ width: `${(100 * each.probability) / most}%` }} class={side(each)} /><b style={{ left: `${(100 * each.probability_before) / most}%` }} /></div></td>
            <td>{percent(each.probability)}</td><td class="soft">{percent(each.probability_before)}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

export function Python({ text }: { text: string }) {
  return (
    <details class="commands python">
      <summary>Copy as Python</summary>
      <div><pre tabIndex={0} id="live-python">{text}</pre><Copy text={text} /></div>
    </details>
  );
}

export function Copy({ text, label = "Copy" }: { text: string; label?: string }) {
  const [copied, setCopied] = useState("");
  const copy = (): void => void navigator.clipboard?.writeText(text).then(() => setCopied(text), () => setCopied(""));
  return <button type="button" onClick={copy}>{copied === text ? "Copied" : label}</button>;
}
