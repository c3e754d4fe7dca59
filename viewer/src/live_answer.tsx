// What the model says, beside what it said untouched.
import { number, percent, signed } from "./format";
import type { Token } from "./live_asking";
import { Copy, NextToken, Said, Tops } from "./live_said";
import { type Answer, answer, asked, asking, right, wrong } from "./live_state";

export function Answered() {
  return (
    <Said asking={asking}>
      {(found) => (
        <>
          <p class="mind" id="live-mind"><Next found={found} /></p>
          <Numbers found={found} />
          <Tops top={found.top} side={side} />
          <Python text={found.python} />
        </>
      )}
    </Said>
  );
}

// On narrow screens the answer stands below the sliders; this line of it stays in sight.
export function Brief() {
  return answer.value && <p class="mind brief" aria-hidden="true"><Next found={answer.value} /></p>;
}

const Next = ({ found }: { found: Answer }) => <NextToken top={found.top[0]} before={found.top_before[0]} changed={changed()} side={side} />;
const changed = (): boolean => asked.value !== null && (asked.value.start === "circuit" || asked.value.changes.some((each) => each.nodes.length > 0));

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

export function Python({ text }: { text: string }) {
  return (
    <details class="commands python">
      <summary>Copy as Python</summary>
      <div><pre tabIndex={0} id="live-python">{text}</pre><Copy text={text} /></div>
    </details>
  );
}
