/** Two texts: the latents that fire in one and not in the other, and those of both that are stronger in one. */
import { useState } from "preact/hooks";
import type { DifferenceBody, SaeEntry, TextDifference } from "../api";
import { count, num, oneIn } from "../format";
import { to } from "../router";
import { Choice, Named } from "./bits";
import { Save } from "./save";
import { Term } from "./term";

type Row = TextDifference["rows"][number];
type View = "first" | "second" | "both";

const belongs: Record<View, (row: Row) => boolean> = {
  first: (row) => row.second === null,
  second: (row) => row.first === null,
  both: (row) => row.first !== null && row.second !== null,
};

const leftOut = (name: string, n: number) => (n > 0 ? ` The last ${count(n)} tokens of the ${name} text were left out.` : "");

interface DifferencesProps {
  difference: TextDifference;
  sae: SaeEntry;
  /** The two texts, as they were read. */
  body: DifferenceBody;
}

export function Differences({ difference, sae, body }: DifferencesProps) {
  const [view, setView] = useState<View>("first");
  const rows = difference.rows.filter(belongs[view]);
  const total = { first: difference.n_first, second: difference.n_second, both: difference.n_both }[view];
  const side = (value: Row["first"]) => (value ? oneIn(value.one_in) || num(value.value) : "silent");
  return (
    <div class="stack tight">
      <Choice
        name="Which latents"
        value={view}
        options={[
          { value: "first", text: `Only in the first (${count(difference.n_first)})` },
          { value: "second", text: `Only in the second (${count(difference.n_second)})` },
          { value: "both", text: `In both (${count(difference.n_both)})` },
        ]}
        onPick={setView}
      />
      <p class="small muted" role="status">
        {rows.length < total ? `The ${count(rows.length)} largest differences of ${count(total)}` : `${count(total)} ${total === 1 ? "latent" : "latents"}`}; the largest first, by how <Term word="unusual" /> the activation is for its latent.
        {leftOut("first", difference.n_dropped_first)}
        {leftOut("second", difference.n_dropped_second)}
      </p>
      <Save name="the differences" sae={sae} body={body} />
      <div class="scroll" tabIndex={0} role="region" aria-label="Differences, table">
        <table>
          <thead>
            <tr>
              <th scope="col"><Term word="latent">Latent</Term></th>
              <th scope="col" class="n">First, as strong on</th>
              <th scope="col" class="n">Second, as strong on</th>
              <th scope="col" class="n">Tokens</th>
            </tr>
          </thead>
          <tbody>
            {rows.map((row) => (
              <tr key={row.latent}>
                <td class="w">
                  <a data-row href={to.latent(sae.site, sae.name, row.latent)}>
                    <Named latent={row.latent} label={row.label} />
                  </a>
                </td>
                <td class="n">{side(row.first)}</td>
                <td class="n">{side(row.second)}</td>
                <td class="n">
                  {count(row.first?.n_tokens ?? 0)} · {count(row.second?.n_tokens ?? 0)}
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </div>
  );
}
