// A label for the concept that is open: kept by the server behind the page or, in a file, by a command.
import { useState } from "preact/hooks";
import { about, label } from "./concept_live_state";
import type { Concept } from "./concept_model";
import { page } from "./concept_state";
import { Commands } from "./evidence";
import { type Problem, problemOf } from "./live_asking";
import { Trouble } from "./live_said";

export function Naming({ concept: each }: { concept: Concept }) {
  return about ? <Own concept={each} key={`${each.id} ${each.label}`} /> : <Command concept={each} />;
}

function Own({ concept: { id, label: given, name } }: { concept: Concept }) {
  const [draft, setDraft] = useState(given);
  const [problem, setProblem] = useState<Problem | null>(null);
  const keep = (text: string): void => void label(id, text).then(() => setProblem(null), (error: unknown) => setProblem(problemOf(error)));
  const send = (event: Event): void => {
    event.preventDefault();
    keep(draft);
  };
  return (
    <form class="naming live" onSubmit={send}>
      <label for="label">Your name for it</label>
      <p class="row">
        <input id="label" value={draft} placeholder={name} maxLength={200} autocomplete="off" onInput={(event) => setDraft(event.currentTarget.value)} />
        <button type="submit" id="keep-label" disabled={draft.trim() === given}>Keep</button>
        {given && <button type="button" onClick={() => keep("")}>Take it away</button>}
      </p>
      <p class="soft small">{given ? "Kept in labels.json, beside the codebook." : "It goes into labels.json, beside the codebook."}</p>
      <Trouble problem={problem} />
    </form>
  );
}

function Command({ concept: each }: { concept: Concept }) {
  const command = `subcircuit concepts label ${quoted(page.value.folder)} ${each.id} ${quoted(each.label || each.name)}`;
  return <Commands commands={[command]} summary={each.label ? "Call it otherwise" : "Give it a name of your own"} />;
}

const quoted = (path: string): string => (/^[\w./-]+$/.test(path) ? path : `'${path.replaceAll("'", "'\\''")}'`);
