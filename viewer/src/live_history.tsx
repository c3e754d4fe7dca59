// What was asked before, by every page that is open on this model.
import { number, percent, signed } from "./format";
import { Copy } from "./live_answer";
import { history, restore } from "./live_state";
import { Table } from "./table";

export function History() {
  const entries = history.value;
  if (!entries.length) return null;
  const columns = [{ name: "" }, { name: "changed", text: true }, { name: "prompt", text: true }, { name: "next token", text: true }, { name: "logit difference" }, { name: "KL (nats)" }, { name: "" }];
  return (
    <div id="live-history">
      <Table summary={`History, ${entries.length} ${entries.length === 1 ? "question" : "questions"}`} columns={columns} count={entries.length}
        row={(at) => {
          const { number: place, summary, question, answer } = entries[at];
          const [top, difference] = [answer.top[0], answer.changed.logit_difference];
          return [
            place, summary, <span class="clip" title={question.clean}>{question.clean}</span>, `${top.text.trim() || "␣"} ${percent(top.probability)}`,
            difference === null ? "–" : signed(difference), number(answer.kl),
            <span class="doing"><button type="button" onClick={() => restore(entries[at])}>Again</button> <Copy text={answer.python} label="Copy as Python" /></span>,
          ];
        }} />
    </div>
  );
}
