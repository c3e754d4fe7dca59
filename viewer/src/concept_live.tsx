// The model behind a codebook's page: a text, the concepts of its words, and what the model says without one of them.
import { useEffect, useState } from "preact/hooks";
import { diverging } from "./canvas";
import { type ConceptAnswer, type ConceptQuestion, type Place, about, asking, put, question, read, restore } from "./concept_live_state";
import { type Concept, called } from "./concept_model";
import { choose, concept, page } from "./concept_state";
import { number, percent, signed } from "./format";
import { Mind, Past, Said, Shares, Tops, shown } from "./live_said";
import { dark } from "./state";

export function ConceptLive() {
  if (!about) return <Hint />;
  return <Panel />;
}

// A page that was opened as a file has no model; it says how to get one.
function Hint() {
  const { folder } = page.value;
  return <p class="live-hint">To type a text and take concepts out of the model, run <code>subcircuit view {/\s/.test(folder) ? `'${folder}'` : folder}</code></p>;
}

function Panel() {
  useEffect(() => {
    put({}, false);
    void asking.remember();
  }, []);
  return (
    <section class="live" id="live-view" aria-label="Live">
      <h2>Take a concept out, see what the model says</h2>
      <div class="bench">
        <div class="ask">
          <Text key={question.value.text} />
          <Words />
          <Taken />
          {asking.answer.value && <p class="mind brief" aria-hidden="true"><Now found={asking.answer.value} /></p>}
        </div>
        <Said asking={asking} idle={question.value.text.trim() ? undefined : "Type a text, or take an example."}>{(found) => <Found found={found} />}</Said>
      </div>
      <History />
    </section>
  );
}

function Text() {
  const { examples, longest, template } = about!;
  const [draft, setDraft] = useState(question.value.text);
  const at = examples.indexOf(question.value.text);
  const take = (index: number): void => read(examples[(index + examples.length) % examples.length]);
  const send = (event: Event): void => {
    event.preventDefault();
    read(draft);
  };
  const keys = (event: KeyboardEvent): void => {
    if (event.key === "Enter" && !event.shiftKey) send(event);
  };
  return (
    <form onSubmit={send} class="text">
      {examples.length > 0 && (
        <p class="row">
          <label for="example">Text</label>
          <select id="example" value={at} onChange={(event) => take(Number(event.currentTarget.value))}>
            {at < 0 && <option value={-1}>your own</option>}
            {examples.map((each, index) => <option value={index}>{index + 1}: {each}</option>)}
          </select>
          <button type="button" aria-label="Previous text" onClick={() => take(at < 0 ? 0 : at - 1)}>←</button>
          <button type="button" aria-label="Next text" onClick={() => take(at + 1)}>→</button>
        </p>
      )}
      <textarea id="text" rows={2} aria-label="Text to read" value={draft} onInput={(event) => setDraft(event.currentTarget.value)} onKeyDown={keys} />
      <p class="row"><button type="submit" id="ask">Ask</button><span class="soft small">It is read as <code>{template}</code>, its first {longest} tokens.</span></p>
    </form>
  );
}

const nameOf = (code: number): string => called(page.value.concepts[code]);
const current = (): ConceptAnswer | null => (asking.asked.value?.text === question.value.text ? asking.answer.value : null);

// Every word with its concept; colour is its share in the answer. A press opens its concept and takes it out.
function Words() {
  const found = current();
  if (!found) return null;
  const most = Math.max(...found.words.map((each) => Math.abs(each.score)), 1e-12);
  const press = (code: number): void => {
    choose(code);
    put({ code });
  };
  return (
    <>
      <div class="tokens read" role="group" aria-label="Words with their concepts. Press one to take its concept out.">
        {found.words.map((each, at) => {
          const strength = each.score / most;
          return (
            <button type="button" key={at} class={`token${at === found.salient ? " judged" : ""}`} aria-pressed={each.code === found.code} onClick={() => press(each.code)}
              style={{ background: diverging(0.5 * strength, dark.value) }} data-code={each.code} data-score={each.score}
              title={`${signed(each.score)} of the log odds of the answer; concept ${each.code}, ${each.assigned ? "" : "too "}far from it by ${number(each.distance)}`}>
              <span>{each.word}</span><small>{each.assigned ? nameOf(each.code) : `(${nameOf(each.code)})`}</small>
            </button>
          );
        })}
      </div>
      <p class="note">Orange words speak for the answer, blue ones against it; the underlined one counts most. Below a word: its concept, in brackets where it lies too far from any.</p>
    </>
  );
}

function Taken() {
  const [found, { code, where }] = [current(), question.value];
  const codes = [...new Set([...(found?.words.map((each) => each.code) ?? []), concept.value.code, ...(code === null ? [] : [code])])];
  const take = (value: number): void => put({ code: value < 0 ? null : value });
  return (
    <>
      <p class="row">
        <label for="taken-out">Take out</label>
        <select id="taken-out" value={code ?? -1} onChange={(event) => take(Number(event.currentTarget.value))}>
          <option value={-1} selected={code === null}>the most salient word’s concept</option>
          {codes.map((each) => <option value={each} selected={each === code}>{nameOf(each)}{each === concept.value.code ? " (open below)" : ""}</option>)}
        </select>
      </p>
      <p class="row">
        <label for="where">Where</label>
        <select id="where" value={where} onChange={(event) => put({ where: event.currentTarget.value as Place })}>
          {Object.entries(about!.places).map(([value, text]) => <option value={value} selected={value === where}>{text}</option>)}
        </select>
      </p>
    </>
  );
}

function Now({ found }: { found: ConceptAnswer }) {
  const { answer, now, concept: without, shares } = found;
  const chance = answer === now ? without.probability : (without.shares[now] ?? found.top[0].probability);
  const was = answer === now ? found.probability : (shares[now] ?? found.top[0].probability_before);
  return <Mind now={{ word: shown(now), probability: chance }} before={{ word: shown(answer), probability: found.probability }} same={answer === now} was={was} changed />;
}

function Found({ found }: { found: ConceptAnswer }) {
  const labels = Object.keys(found.shares);
  const { concept: without, random } = found;
  return (
    <>
      <p class="mind" id="live-mind"><Now found={found} /></p>
      <p class="soft small">Without <button type="button" class="plain" id="removed" data-code={found.code} onClick={() => choose(found.code)}>{nameOf(found.code)}</button>, {about!.places[asking.asked.value!.where]}</p>
      <dl class="live-numbers">
        <div><dt>Answer moves by</dt><dd><data id="live-change" value={String(without.change)}>{number(without.change, 3)}</data> <small>{percent(found.probability)} to {percent(without.probability)}</small></dd></div>
        <div><dt>Random direction</dt><dd><data id="live-random" value={String(random.change)}>{number(random.change, 3)}</data> <small>as much out, mean of {asking.asked.value!.draws}</small></dd></div>
        <div><dt>Taken out</dt><dd><data id="live-removed" value={String(without.removed)}>{percent(without.removed)}</data> <small>of the energy</small></dd></div>
      </dl>
      {labels.length > 0
        ? <Shares id="live-shares" caption="Shares of the labels" what="label" rows={labels.map((name) => ({ key: name, name, now: without.shares[name], before: found.shares[name], random: random.shares[name] }))} />
        : <Tops top={found.top} />}
    </>
  );
}

function History() {
  const columns = [{ name: "text", text: true }, { name: "taken out", text: true }, { name: "answer", text: true }, { name: "|dP|" }, { name: "random" }];
  const changed = ({ where }: ConceptQuestion): string => (where === "text" ? "" : ` ${about!.places[where]}`);
  return (
    <Past asking={asking} columns={columns} again={restore}
      row={({ question: each, answer }) => [<span class="clip" title={each.text}>{each.text}</span>, `${nameOf(answer.code)}${changed(each)}`, answer.answer === answer.now ? shown(answer.answer) : `${shown(answer.answer)} → ${shown(answer.now)}`, number(answer.concept.change, 3), number(answer.random.change, 3)]} />
  );
}

// In the concept that is open: take it out of the text above.
export function TakeOut({ concept: each }: { concept: Concept }) {
  if (!about) return null;
  return <button type="button" id="take-out" onClick={() => put({ code: each.code })}>Take it out of the text above</button>;
}
