// One concept: its words, examples, labels, effect, writers and neighbours.
import { type Concept, type Example, type Writer, called } from "./concept_model";
import { TakeOut } from "./concept_live";
import { about as live, read, show } from "./concept_live_state";
import { Naming } from "./concept_naming";
import { choose, concept, page } from "./concept_state";
import { number, percent, whole } from "./format";

export function Detail() {
  const each = concept.value;
  const { about, score, texts } = page.value;
  return (
    <article id="concept" aria-label="The concept that is open" key={each.code}>
      <h2>{called(each)}</h2>
      <p class="facts">
        {each.label && <span>{each.name}</span>}
        <span><data id="size" value={each.size}>{whole(each.size)}</data> states, {percent(each.size / about.states)}</span>
        <span>code {each.code}</span>
        <span>id <code id="identity">{each.id}</code></span>
      </p>
      <TakeOut concept={each} />
      <p class="words">{Object.entries(each.words).map(([word, count]) => <span>{word} <small>{whole(count)}</small></span>)}</p>
      <h3>Examples</h3>
      <ul class="uses">{each.examples.map((one) => <Use example={one} />)}</ul>
      <div class="pair">
        {Object.keys(texts).length > 0 && <Labels concept={each} />}
        <div><h3>Similar concepts</h3><ul class="bars near">{each.similar.map(([code, cosine]) => <li><button type="button" class="plain" onClick={() => choose(code)}>{called(page.value.concepts[code])}</button><Bar share={cosine} /><span>{number(cosine)}</span></li>)}</ul></div>
      </div>
      {score && <Effect concept={each} />}
      {each.heads.length + each.neurons.length > 0 && <Writers concept={each} />}
      <Naming concept={each} />
    </article>
  );
}

function Use({ example: { before, word, after, label } }: { example: Example }) {
  const cut = !word || before.startsWith("…") || after.endsWith("…");
  const ask = (): void => {
    read(before + word + after);
    show();
  };
  return <li>{before}{word && <mark>{word}</mark>}{after}{label && <small class="tag">{label}</small>}{live && !cut && <button type="button" class="plain take" onClick={ask}>ask</button>}</li>;
}

// Its length is the share; a tick stands where it would be for all states.
function Bar({ share, tick, most = 1 }: { share: number; tick?: number; most?: number }) {
  return <i class={share < 0 ? "bar less" : "bar"}><b style={{ width: `${(100 * Math.min(1, Math.abs(share) / most)).toFixed(1)}%` }} />{tick !== undefined && <em style={{ left: `${100 * tick}%` }} />}</i>;
}

function Labels({ concept: { labels } }: { concept: Concept }) {
  const { texts } = page.value;
  return (
    <div>
      <h3>Labels of its texts <small>tick: of all states</small></h3>
      <ul class="bars">{Object.entries(labels).map(([label, share]) => <li title={`${percent(texts[label])} of all states`}><span>{label}</span><Bar share={share} tick={texts[label]} /><span>{percent(share)}</span></li>)}</ul>
    </div>
  );
}

function Effect({ concept: { effect } }: { concept: Concept }) {
  const { rows } = page.value.score!;
  if (!effect) return <div><h3>Without it</h3><p class="soft">None of the texts that were scored rests on this concept most.</p></div>;
  const n = effect.rows.length;
  return (
    <div>
      <h3>Without it <small>texts whose most salient word is this concept’s</small></h3>
      <p>The probability of the answer moves by <b><data id="dp" value={effect.change}>{number(effect.change, 3)}</data></b> {n > 1 && "on average "}over {n} text{n > 1 && "s"}; {effect.flipped} of them get another answer.</p>
      <div class="scroll">
        <table>
          <thead><tr><th scope="col" class="text">word</th><th scope="col" class="text">answer</th><th scope="col">P before</th><th scope="col">after</th><th scope="col" class="wide">text</th></tr></thead>
          <tbody>{effect.rows.map((at) => rows[at]).map((row) => <tr><td class="text"><mark>{row.word}</mark></td><td class="text">{row.answer}{row.label && row.label !== row.answer && <small> not {row.label}</small>}</td><td>{number(row.before)}</td><td class={row.flipped ? "flipped" : ""}>{number(row.after)}</td><td class="wide">{row.text}</td></tr>)}</tbody>
        </table>
      </div>
    </div>
  );
}

function Writers({ concept: { heads, neurons, embedding } }: { concept: Concept }) {
  const { circuit } = page.value;
  const most = Math.max(...[...heads, ...neurons].map((each) => Math.abs(each.share)));
  return (
    <div>
      <h3>Written by <small>shares of how far its states lie along its direction; the embedding brings {share(embedding ?? 0)}</small></h3>
      {circuit && <p class="soft key"><i class="kept" /> kept by the circuit for {circuit.task}, which has {whole(circuit.heads)} heads and {whole(circuit.neurons)} neurons</p>}
      <div class="pair">
        {[["Heads", heads], ["Neurons", neurons]].map(([name, nodes]) => (
          <div>
            <h4>{name as string}</h4>
            <ul class="bars nodes">{(nodes as Writer[]).map((each) => <li class={each.kept ? "kept" : ""}><span><i class={each.kept ? "kept" : ""} role={each.kept ? "img" : undefined} aria-label={each.kept ? "in the circuit" : undefined} /><code>{each.node}</code></span><Bar share={each.share} most={most} /><span>{share(each.share)}</span></li>)}</ul>
          </div>
        ))}
      </div>
    </div>
  );
}

const share = (value: number): string => `${(100 * value).toFixed(1).replace("-", "−")}%`;
