// All concepts, or those that match what was typed: sorted by a press on a column's name, walked through by arrow keys.
import { useEffect, useRef } from "preact/hooks";
import { type By, type Concept, called, lean } from "./concept_model";
import { by, choose, chosen, listed, page, typed } from "./concept_state";
import { number, percent, whole } from "./format";

const NAMES: [By, string][] = [["name", "concept"], ["states", "states"], ["label", "texts are"], ["effect", "|dP|"]];

export function List() {
  const box = useRef<HTMLUListElement>(null);
  const rows = listed.value;
  const columns = NAMES.filter(([each]) => (each !== "effect" || page.value.score) && (each !== "label" || Object.keys(page.value.texts).length > 0));
  useEffect(() => reveal(box.current!), [chosen.value, by.value]);
  const walk = (event: KeyboardEvent): void => {
    const at = rows.findIndex((each) => each.code === chosen.value);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: rows.length - 1 }[event.key];
    if (to === undefined || !rows.length) return;
    event.preventDefault();
    choose(rows[Math.max(0, Math.min(rows.length - 1, to))].code);
  };
  return (
    <div class="list">
      <div class="tools">
        <input id="filter" type="search" placeholder="Filter by word, label, id or node" aria-label="Filter concepts by word, label, id or node" value={typed.value}
          onInput={(event) => void (typed.value = event.currentTarget.value)} onKeyDown={(event) => { if (event.key === "Enter" && rows.length) choose(rows[0].code); }} />
        <span class="soft" role="status"><data id="matching" value={rows.length}>{whole(rows.length)}</data> of {whole(page.value.concepts.length)}</span>
      </div>
      <div class={`columns of-${columns.length}`} role="group" aria-label="Sort by">
        {columns.map(([each, name]) => <button type="button" class={each === by.value ? "on" : ""} aria-pressed={each === by.value} onClick={() => void (by.value = each)}>{name}</button>)}
      </div>
      <ul role="listbox" id="concepts" tabIndex={0} aria-label="Concepts. Up and down arrow keys open one after another." aria-activedescendant={`concept-${chosen.value}`} ref={box} onKeyDown={walk}>
        {rows.map((each) => <Entry concept={each} columns={columns.length} most={Math.max(...page.value.concepts.map((one) => one.size))} />)}
        {!rows.length && <li class="none">No concept has such a word.</li>}
      </ul>
    </div>
  );
}

// Scrolls the list alone: `scrollIntoView` would move the page under the reader.
function reveal(list: HTMLElement): void {
  const entry = list.querySelector("[aria-selected=true]");
  if (!entry) return;
  const [around, mine] = [list.getBoundingClientRect(), entry.getBoundingClientRect()];
  list.scrollTop += Math.min(0, mine.top - around.top) + Math.max(0, mine.bottom - around.bottom);
}

function Entry({ concept, columns, most }: { concept: Concept; columns: number; most: number }) {
  const { score, texts } = page.value;
  const leaning = lean(concept, texts);
  const open = (): void => {
    choose(concept.code);
    if (matchMedia("(max-width: 760px)").matches) document.getElementById("concept")?.scrollIntoView({ behavior: "smooth" });
  };
  return (
    <li role="option" id={`concept-${concept.code}`} aria-selected={concept.code === chosen.value} class={`of-${columns}`} onClick={open}>
      <span class="called"><b class={concept.label ? "own" : ""}>{called(concept)}</b><small>{Object.keys(concept.words).slice(0, 6).join(" ")}</small></span>
      <span class="use">{whole(concept.size)}<i style={{ width: `${(100 * concept.size) / most}%` }} /></span>
      {Object.keys(texts).length > 0 && <span title={leaning ? `${percent(texts[leaning.label])} of all states` : "as all states"}>{leaning ? `${leaning.label} ${Math.round(100 * leaning.share)}%` : "–"}</span>}
      {score && <span>{concept.effect ? number(concept.effect.change) : "–"}</span>}
    </li>
  );
}
