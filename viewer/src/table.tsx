// The same numbers as rows: every chart has one. Rows are made when the table is opened.
import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";

const STEP = 50; // rows shown at a time

export interface Column { name: string; text?: boolean; wide?: boolean } // wide: whole sentences

interface Props { summary: string; columns: Column[]; count: number | (() => number); row: (at: number) => ComponentChildren[]; open?: boolean }

// Rows that are worked out only when somebody looks at them.
export function lazy<T>(make: () => T): () => T {
  let made: T | undefined;
  return () => (made ??= make());
}

const look = ({ text, wide }: Column): string => (wide ? "wide" : text ? "text" : "");

export function Table({ summary, columns, count, row, open = false }: Props) {
  const [shown, setShown] = useState(open);
  const [most, setMost] = useState(STEP);
  const all = shown ? (typeof count === "number" ? count : count()) : 0;
  return (
    <details class="table" open={open} onToggle={(event) => setShown((event.currentTarget as HTMLDetailsElement).open)}>
      <summary>{summary}</summary>
      {shown && (
        <div class="scroll">
          <table>
            <thead><tr>{columns.map((each) => <th scope="col" class={look(each)}>{each.name}</th>)}</tr></thead>
            <tbody>
              {Array.from({ length: Math.min(all, most) }, (_, at) => (
                <tr key={at}>{row(at).map((cell, column) => <td class={look(columns[column])}>{cell}</td>)}</tr>
              ))}
            </tbody>
          </table>
          {all > most && <button type="button" onClick={() => setMost(most + 4 * STEP)}>{all - most} more rows</button>}
        </div>
      )}
    </details>
  );
}
