/** A chat model's explanation of a latent, with the scores of monosemy/features/explain/explanations.py and what they rest on. */
import type { Explanation as ExplanationBody } from "../api";
import { count, num } from "../format";
import { Explained } from "./term";

type Score = ExplanationBody["scores"][string];

const NAMES: Record<string, [string, string]> = {
  detection_random: ["Detection, random", "Told from windows drawn at random: does the text fire it?"],
  detection_near_miss: ["Detection, near misses", "Told from windows where a latent of nearly the same direction fires"],
  fuzzing: ["Fuzzing", "Are the marked tokens those on which it fires?"],
  simulation: ["Simulation", "Correlation of the activations that the model predicts with the true ones"],
};
const MEASURES = ["auroc", "balanced_accuracy", "correlation"];
const MEASURE_NAMES: Record<string, string> = { auroc: "AUROC", balanced_accuracy: "balanced accuracy", correlation: "correlation" };

export function Explanation({ explanation }: { explanation: ExplanationBody }) {
  const scores = Object.entries(explanation.scores);
  const skipped = Object.entries(explanation.skipped);
  const ends = (score: Score, measure: string) => {
    const [low, high] = [score[`${measure}_low`], score[`${measure}_high`]];
    return low != null && high != null ? ` [${num(low)}, ${num(high)}]` : "";
  };
  return (
    <section class="card stack" aria-labelledby="explanation">
      <header>
        <h2 id="explanation">Explanation</h2>
        <span class="sub">
          by {explanation.model || "a chat model"}
          {explanation.n_passages !== null && `, from ${count(explanation.n_passages)} contexts`}
        </span>
      </header>
      <p>{explanation.text}</p>
      {scores.length > 0 && (
        <div class="scroll">
          <table>
            <thead>
              <tr>
                <th scope="col">Score</th>
                <th scope="col">Value, 95% interval</th>
                <th scope="col" class="n">Firing</th>
                <th scope="col" class="n">Silent</th>
                <th scope="col" class="n">Unread</th>
              </tr>
            </thead>
            <tbody>
              {scores.map(([name, score]) => (
                <tr key={name}>
                  <th scope="row"><Explained text={NAMES[name]?.[1] ?? ""}>{NAMES[name]?.[0] ?? name}</Explained></th>
                  <td>
                    {MEASURES.filter((measure) => measure in score)
                      .map((measure) => `${MEASURE_NAMES[measure]} ${num(score[measure])}${ends(score, measure)}`)
                      .join("; ")}
                    {score.n_tokens != null && ` on ${count(score.n_tokens)} tokens of ${count(score.n_passages)} contexts`}
                  </td>
                  <td class="n">{count(score.n_positive)}</td>
                  <td class="n">{count(score.n_negative)}</td>
                  <td class="n">{count(score.n_missing)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
      {skipped.map(([name, why]) => (
        <p class="small muted" key={name}>{NAMES[name]?.[0] ?? name}: not measured, {why}.</p>
      ))}
    </section>
  );
}
