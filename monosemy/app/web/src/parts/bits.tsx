/** Small parts that every page uses. */
import type { ComponentChildren } from "preact";
import { columnTitle } from "../format";
import { setQuery } from "../router";
import type { Loaded } from "../state";
import { explain } from "./term";

export function Message({ bad, children }: { bad?: boolean; children: ComponentChildren }) {
  return (
    <div class={`message${bad ? " bad" : ""}`} role={bad ? "alert" : undefined}>
      {children}
    </div>
  );
}

/** What was loaded, or why it was not, or that it is on its way; what is shown is marked while a newer answer is. */
export function Await<T>({ of, children }: { of: Loaded<T>; children: (value: T) => ComponentChildren }) {
  if (of.error) return <Message bad>{of.error}</Message>;
  if (of.value === null) return of.busy ? <p class="empty busy">Loading…</p> : null;
  return (
    <div class="awaited" aria-busy={of.busy}>
      {children(of.value)}
    </div>
  );
}

export interface Option<V extends string> {
  value: V;
  text: string;
  help?: string;
}
/** A few choices of which one holds. */
export function Choice<V extends string>(props: { name: string; value: V; options: Option<V>[]; onPick: (value: V) => void }) {
  return (
    <div class="choice" role="group" aria-label={props.name}>
      {props.options.map((option) => (
        <button
          type="button"
          key={option.value}
          aria-pressed={option.value === props.value}
          {...explain(option.help)}
          onClick={() => props.onPick(option.value)}
        >
          {option.text}
        </button>
      ))}
    </div>
  );
}

/** The numbers behind a plot. */
/** With `of`, what the table is of, where a page has several of one title. */
export function DataTable({ title, of, head, rows }: { title: string; of?: string; head: string[]; rows: (string | number)[][] }) {
  return (
    <details class="data">
      <summary>{title} as a table</summary>
      <div class="scroll" tabIndex={0} role="region" aria-label={`${title}${of ? ` of ${of}` : ""}, table`}>
        <table>
          <thead>
            <tr>
              {head.map((text, i) => (
                <th scope="col" class={i ? "n" : undefined} key={text}>
                  {text}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {rows.map((row, r) => (
              <tr key={r}>
                {row.map((cell, i) => (
                  <td class={i ? "n" : undefined} key={i}>
                    {cell}
                  </td>
                ))}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </details>
  );
}

export function SortHead(props: {
  name: string;
  sort: string;
  order: string;
  help?: string;
  wide?: boolean;
  onSort: (name: string, order: "asc" | "desc") => void;
}) {
  const on = props.sort === props.name;
  const next = on && props.order === "desc" ? "asc" : "desc";
  return (
    <th
      scope="col"
      class={props.wide ? undefined : "n"}
      aria-sort={on ? (props.order === "desc" ? "descending" : "ascending") : undefined}
    >
      <button type="button" {...explain(props.help)} onClick={() => props.onSort(props.name, on ? next : props.name === "latent" ? "asc" : "desc")}>
        {columnTitle(props.name)}
        <span class="arrow" aria-hidden="true">
          {on ? (props.order === "desc" ? "↓" : "↑") : ""}
        </span>
      </button>
    </th>
  );
}

export function Pager(props: { total: number; offset: number; limit: number; onMove: (offset: number) => void }) {
  const { total, offset, limit } = props;
  if (total <= limit) return null;
  return (
    <nav class="row between small" aria-label="Pages of the list">
      <span class="muted">
        {(offset + 1).toLocaleString("en")}–{Math.min(total, offset + limit).toLocaleString("en")} of {total.toLocaleString("en")}
      </span>
      <span class="row">
        <button type="button" disabled={offset === 0} onClick={() => props.onMove(Math.max(0, offset - limit))}>
          Previous
        </button>
        <button type="button" disabled={offset + limit >= total} onClick={() => props.onMove(offset + limit)}>
          Next
        </button>
      </span>
    </nav>
  );
}

/** Instead of a list's rows where the address asks for a page behind its last one. */
export function BeyondTheEnd({ total, offset }: { total: number; offset: number }) {
  return (
    <Message bad>
      The address asks for the list from row {(offset + 1).toLocaleString("en")} on, and it has {total.toLocaleString("en")}.{" "}
      <button type="button" onClick={() => setQuery({ offset: null })}>To its start</button>
    </Message>
  );
}

/** The name of a latent: its number, then its label. */
export function Named({ latent, label }: { latent: number; label: string }) {
  return (
    <>
      <span class="id">{latent}</span>{" "}
      {label || <span class="muted">no label</span>}
    </>
  );
}
