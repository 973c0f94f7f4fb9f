import { tickText, ticks } from "./scale";
import type { Scale } from "./scale";

export interface Frame {
  width: number;
  height: number;
  left: number;
  right: number;
  top: number;
  bottom: number;
}

interface AxesProps {
  frame: Frame;
  x: Scale;
  y: Scale;
  xName: string;
  yName: string;
  xTicks?: number[];
  xText?: (value: number) => string;
  yText?: (value: number) => string;
}

/** Left and lower axis with round ticks; the vertical axis's name stands above it, where it can be read. */
export function Axes({ frame, x, y, xName, yName, xTicks, xText = tickText, yText = tickText }: AxesProps) {
  const floor = frame.height - frame.bottom;
  return (
    <g aria-hidden="true">
      {ticks(y, Math.max(3, Math.round((floor - frame.top) / 45))).map((value) => (
        <g key={value} transform={`translate(0,${y.at(value)})`}>
          <line class="grid" x1={frame.left} x2={frame.width - frame.right} />
          <text x={frame.left - 7} dy="0.34em" text-anchor="end">
            {yText(value)}
          </text>
        </g>
      ))}
      {(xTicks ?? ticks(x, Math.max(3, Math.round((frame.width - frame.left - frame.right) / 80)))).map((value) => (
        <g key={value} transform={`translate(${x.at(value)},0)`}>
          <line class="axis" y1={floor} y2={floor + 4} />
          <text y={floor + 16} text-anchor="middle">
            {xText(value)}
          </text>
        </g>
      ))}
      <line class="axis" x1={frame.left} x2={frame.width - frame.right} y1={floor} y2={floor} />
      <text x={0} y={10}>
        {yName}
      </text>
      <text x={frame.width - frame.right} y={frame.height - 2} text-anchor="end">
        {xName}
      </text>
    </g>
  );
}
