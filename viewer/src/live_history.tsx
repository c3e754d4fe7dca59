// What was asked of this model before.
import { number, percent, signed } from "./format";
import { Copy, Past } from "./live_said";
import { asking, restore } from "./live_state";

export function History() {
  const columns = [{ name: "changed", text: true }, { name: "prompt", text: true }, { name: "next token", text: true }, { name: "logit difference" }, { name: "KL (nats)" }];
  return (
    <Past asking={asking} columns={columns} again={restore} more={({ answer }) => <> <Copy text={answer.python} label="Copy as Python" /></>}
      row={({ summary, question, answer }) => {
        const [top, difference] = [answer.top[0], answer.changed.logit_difference];
        return [
          summary, <span class="clip" title={question.clean}>{question.clean}</span>, `${top.text.trim() || "␣"} ${percent(top.probability)}`,
          difference === null ? "–" : signed(difference), number(answer.kl),
        ];
      }} />
  );
}
