// What the removal of concepts does to answers, beside the removal of other directions.
import type { Effect, Score } from "./concept_model";
import { page } from "./concept_state";
import { interval, number, percent } from "./format";
import { Intervals } from "./intervals";
import type { Estimate } from "./payload";
import { Table } from "./table";

const WHERE = { text: "from the text to the judged token", salient: "at that word", judged: "at the judged token" };

export function Measured({ score }: { score: Score }) {
  const { seeds, stability } = page.value;
  const rows: [string, Effect][] = [["the concept", score.concept], ...Object.entries(score.controls)];
  const cell = (each: Estimate | null) => (each ? <>{number(each.mean, 3)} <small>{interval(each)}</small></> : "–");
  const columns = [{ name: "removed", text: true }, { name: "|dP|" }, { name: "concept ahead by" }, { name: "flipped" }, { name: "accuracy" }, { name: "energy" }, ...(score.probe ? [{ name: "probe" }, { name: "taught anew" }] : [])];
  return (
    <section aria-label="Effect of concepts">
      <figure id="score">
        <figcaption>
          <h2>Do answers rest on them?</h2>
          <p>Each text’s concept, that of its most salient word, is taken out of the model {WHERE[score.where]}. How far the probability of the answer moves, on {score.texts} texts with 95% intervals; the controls take out {score.matched ? "as much" : "what they are"}. Farther to the right is more.</p>
        </figcaption>
        <Intervals rows={rows.map(([name, each]) => [name, [each.change]])} label="How far the answer's probability moves without the concept, and without other directions; the table below has the numbers" />
        <Table open summary="Concept and controls as a table" columns={columns} count={rows.length}
          row={(at) => {
            const [name, each] = rows[at];
            const either = each.either === null ? "" : `${number(each.either)} either way`;
            return [name, cell(each.change), cell(each.ahead), percent(each.flipped.mean), each.accuracy ? <>{percent(each.accuracy.mean)} <small>{either}</small></> : "–", percent(each.removed), ...(score.probe ? [percent(each.probe!.mean), percent(each.retrained!.mean)] : [])];
          }} />
        <Exchange score={score} />
        {seeds?.length ? (
          <Table summary="Codebooks of other seeds" columns={[{ name: "seed" }, { name: "|dP|" }, { name: "ahead of a random direction by" }]} count={seeds.length}
            row={(at) => [seeds[at].seed, cell(seeds[at].change), cell(seeds[at].ahead)]} />
        ) : null}
        <p class="soft">
          {score.probe && `A linear probe of whole states reads ${percent(score.probe.mean)} of the labels. `}
          {score.accuracy && `The whole model is right on ${percent(score.accuracy.mean)}. `}The salient words have {score.concepts} concepts; {percent(score.unassigned)} of them lie too far from any.
          {Object.entries(score.absent).map(([name, reason]) => ` No control “${name}”: ${reason}.`)}
          {stability?.length ? ` Codebooks of other seeds agree with an adjusted Rand index of ${number(stability.reduce((sum, each) => sum + each, 0) / stability.length)}.` : ""}
        </p>
      </figure>
    </section>
  );
}

function Exchange({ score: { exchange } }: { score: Score }) {
  const rows = Object.entries(exchange);
  if (!rows.length) return null;
  return (
    <>
      <h3>From one text into another</h3>
      <p class="soft">A text’s most salient word takes the concept of a text that is answered otherwise. How far the probability of that other answer rises, beside a move as far along a random direction, and the whole state of the other word.</p>
      <Intervals rows={rows.map(([name, each]) => [name, [each]])} label="How far the other answer's probability rises; the table below has the numbers" />
      <Table summary="Exchanges as a table" columns={[{ name: "taken over", text: true }, { name: "P rises by" }]} count={rows.length} row={(at) => [rows[at][0], <>{number(rows[at][1].mean, 3)} <small>{interval(rows[at][1])}</small></>]} />
    </>
  );
}
