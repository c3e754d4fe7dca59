// Where all of this comes from: every setting, version and file, and what else was tested.
import { interval, number, plural } from "./format";
import { run } from "./state";
import { Table } from "./table";

export function Stable() {
  const { full } = run.value;
  if (!full) return null;
  const rows = full.stability.flatMap((each) => Object.entries(each.jaccard).map(([kind, jaccard]) => ({ ...each, kind, jaccard })));
  const [signed, last] = [full.curves[0].means?.area, full.curves.at(-1)?.means?.distance];
  const rest = full.complement.scores?.faithfulness;
  return (
    <figure class="more">
      <figcaption><h2>Further evidence</h2></figcaption>
      <dl class="facts-list">
        {signed && <div><dt>CPR, area under faithfulness</dt><dd>{number(signed.mean)} <small>{interval(signed)}; higher is better</small></dd></div>}
        {last && <div><dt>CMD, distance from the model</dt><dd>{number(last.mean)} <small>{interval(last)}; 0 is best</small></dd></div>}
        {rest && <div><dt>Faithfulness of the model without the circuit</dt><dd>{number(rest.mean)} <small>{interval(rest)}; 0 = the circuit is complete</small></dd></div>}
      </dl>
      {rows.length > 0 && (
        <Table open summary="Stability: how alike circuits of other seeds or prompts are" count={rows.length}
          columns={[{ name: "over", text: true }, { name: "circuits" }, { name: "kind", text: true }, { name: "Jaccard" }]}
          row={(at) => [rows[at].over === "seeds" ? `seeds of ${rows[at].method}` : `resampled prompts, by ${rows[at].method}`, rows[at].runs, plural(rows[at].kind), <>{number(rows[at].jaccard.mean)} <small>{interval(rows[at].jaccard)}</small></>]} />
      )}
    </figure>
  );
}

export function Provenance() {
  const { origin, run: log, files, folder } = run.value;
  const facts: Record<string, unknown> = {
    folder, model: origin.model, revision: origin.revision, family: origin.family, dtype: origin.dtype, task: origin.task,
    ...prefixed("task option", origin.task_options), method: origin.method, ...prefixed("setting", origin.settings), reference: origin.reference,
    seed: origin.seed, ...prefixed("prompt pairs,", origin.pairs), ...prefixed("result,", origin.result), ...prefixed("version,", origin.versions),
    ...(log ? { device: log.device, started: log.started, status: log.status, "seconds in all": log.seconds } : {}),
    ...(origin.shared ? { "fetched from": origin.shared } : {}), ...prefixed("sha256,", files),
  };
  const rows = Object.entries(facts);
  return (
    <details class="drawer" id="provenance">
      <summary>Provenance</summary>
      <dl class="facts-list">{rows.map(([name, value]) => <div><dt>{name}</dt><dd><code>{typeof value === "string" ? value || "–" : JSON.stringify(value)}</code></dd></div>)}</dl>
    </details>
  );
}

function prefixed(prefix: string, values: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(values).map(([name, value]) => [`${prefix} ${name}`, value]));
}
