// The model behind the page: a prompt, sets of nodes that are scaled or replaced, and what the model then says.
import { useEffect } from "preact/hooks";
import { Answered, Brief } from "./live_answer";
import { History } from "./live_history";
import { Nodes } from "./live_nodes";
import { Prompt } from "./live_prompt";
import { about, asking, put, question } from "./live_state";
import { run } from "./state";

export function Live() {
  if (!about) return <Hint />;
  return <Panel />;
}

// A report that was opened as a file has no model; it says how to get one.
function Hint() {
  const { folder } = run.value;
  return <p class="live-hint">To switch nodes off and see the model change its mind, run <code>subcircuit view {/\s/.test(folder) ? `'${folder}'` : folder}</code></p>;
}

function Panel() {
  useEffect(() => {
    put({}, false);
    void asking.remember();
  }, []);
  return (
    <section class="live" id="live-view" aria-label="Live">
      <h2>Change the model, see what it says</h2>
      <div class="bench">
        <div class="ask">
          <Prompt />
          <Start />
          <Nodes />
          <Brief />
        </div>
        <Answered />
      </div>
      <History />
    </section>
  );
}

function Start() {
  if (about!.no_circuit) return null;
  const { start } = question.value;
  return (
    <p class="row">
      <span class="label" id="start-label">Begin with</span>
      <span class="choice" role="group" aria-labelledby="start-label">
        {(["model", "circuit"] as const).map((each) => (
          <button type="button" class={each === start ? "on" : ""} aria-pressed={each === start} onClick={() => put({ start: each })}>{each === "model" ? "the whole model" : "the circuit alone"}</button>
        ))}
      </span>
    </p>
  );
}
