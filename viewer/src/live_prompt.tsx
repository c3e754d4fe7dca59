// What the model reads: a pair of the task, or the reader's own; its tokens, which of them are changed, what is right.
import { useState } from "preact/hooks";
import { about, answer, asked, put, question } from "./live_state";

export function Prompt() {
  const { examples, no_examples: absent, longest } = about!;
  const { clean, corrupt } = question.value;
  const at = examples.findIndex((each) => each.clean === clean && each.corrupt === corrupt);
  const take = (index: number): void => put({ ...examples[(index + examples.length) % examples.length], positions: null });
  return (
    <div>
      {examples.length > 0 ? (
        <p class="row">
          <label for="example">Prompt</label>
          <select id="example" value={at} onChange={(event) => take(Number(event.currentTarget.value))}>
            {at < 0 && <option value={-1}>your own</option>}
            {examples.map((each, index) => <option value={index}>{index + 1}: {each.clean}</option>)}
          </select>
          <button type="button" aria-label="Previous prompt" onClick={() => take(at < 0 ? 0 : at - 1)}>←</button>
          <button type="button" aria-label="Next prompt" onClick={() => take(at + 1)}>→</button>
        </p>
      ) : <p class="soft">No prompts of the task: {absent}. Type your own, of at most {longest} tokens.</p>}
      <Tokens />
      <Own key={JSON.stringify([clean, corrupt, question.value.answers, question.value.wrong_answers])} open={examples.length === 0} />
    </div>
  );
}

// The tokens as the model has them, the counterfactual's below where it differs. A click limits changes to a token.
function Tokens() {
  const found = answer.value;
  if (!found || asked.value?.clean !== question.value.clean) return null;
  const { positions } = question.value;
  const pick = (at: number): void => {
    const chosen = new Set(positions ?? []);
    if (!chosen.delete(at)) chosen.add(at);
    put({ positions: chosen.size ? [...chosen].sort((a, b) => a - b) : null });
  };
  return (
    <>
      <div class="tokens" role="group" aria-label="Tokens. Press one to limit changes to its position.">
        {found.tokens.map((token, at) => {
          const other = found.corrupt_tokens[at];
          return (
            <button type="button" key={at} class={`token${at === found.at ? " judged" : ""}`} aria-pressed={positions?.includes(at) ?? false}
              title={`position ${at}${at === found.at ? ": what follows here is judged" : ""}`} onClick={() => pick(at)}>
              <span>{token}</span>{other !== undefined && other !== token && <small>{other}</small>}
            </button>
          );
        })}
      </div>
      <p class="note">
        {positions ? <>Changes act at position {positions.join(", ")} only. <button type="button" class="plain" onClick={() => put({ positions: null })}>At all</button></> : "Changes act at all positions; press tokens to limit them. Below a token: the counterfactual’s."}
      </p>
    </>
  );
}

const split = (text: string): string[] => text.split("|").filter((each) => each.trim());

function Own({ open }: { open: boolean }) {
  const { clean, corrupt, answers, wrong_answers: wrong } = question.value;
  const [draft, setDraft] = useState({ clean, corrupt, answers: answers.join("|"), wrong: wrong.join("|") });
  const set = (name: keyof typeof draft) => (event: { currentTarget: HTMLInputElement | HTMLTextAreaElement }): void => setDraft({ ...draft, [name]: event.currentTarget.value });
  const send = (event?: Event): void => {
    event?.preventDefault();
    put({ clean: draft.clean, corrupt: draft.corrupt, answers: split(draft.answers), wrong_answers: split(draft.wrong), positions: null });
  };
  const keys = (event: KeyboardEvent): void => {
    if (event.key === "Enter" && !event.shiftKey) send(event);
  };
  return (
    <details class="own-prompt" open={open || kept.open} onToggle={(event) => { kept.open = event.currentTarget.open; }}>
      <summary>Type your own</summary>
      <form onSubmit={send}>
        <label for="clean">Prompt</label><textarea id="clean" rows={2} value={draft.clean} onInput={set("clean")} onKeyDown={keys} />
        <label for="corrupt">Counterfactual <small>of as many tokens; may be empty</small></label><textarea id="corrupt" rows={2} value={draft.corrupt} onInput={set("corrupt")} onKeyDown={keys} />
        <div class="two">
          <div><label for="answers">Right answers <small>split by |</small></label><input id="answers" value={draft.answers} onInput={set("answers")} /></div>
          <div><label for="wrong">Wrong answers</label><input id="wrong" value={draft.wrong} onInput={set("wrong")} /></div>
        </div>
        <button type="submit" id="ask">Ask</button>
      </form>
    </details>
  );
}

const kept = { open: false }; // whether the reader has the form open, over prompts
