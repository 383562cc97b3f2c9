// Where things are: points of the picture in a pane of the window, and the zoom of all panes.
import { clamp } from "../dom.js";
import { state, view } from "../model/state.js";

export function scaleOf(port) {
  const fit = Math.min(port.clientWidth / state.size[1], port.clientHeight / state.size[0]);
  return fit * view.zoom;
}

export function shiftOf(port) {
  const scale = scaleOf(port),
    [height, width] = state.size;
  const [x, y] = view.centre ?? [width / 2, height / 2];
  // A picture that does not fill the pane stays in its middle.
  const place = (middle, side, room) =>
    side * scale <= room
      ? (room - side * scale) / 2
      : clamp(room / 2 - middle * scale, room - side * scale, 0);
  return [place(x, width, port.clientWidth), place(y, height, port.clientHeight)];
}

export function pointOf(port, event) {
  const bounds = port.getBoundingClientRect(),
    scale = scaleOf(port),
    [left, top] = shiftOf(port);
  return [(event.clientX - bounds.left - left) / scale, (event.clientY - bounds.top - top) / scale];
}

// Zoom by a factor so that a point of the picture stays where it is in a pane.
export function zoomAt(factor, point) {
  const zoom = clamp(view.zoom * factor, 1, 64),
    [x, y] = view.centre ?? [state.size[1] / 2, state.size[0] / 2];
  const share = view.zoom / zoom;
  view.centre =
    zoom === 1 ? null : [point[0] + (x - point[0]) * share, point[1] + (y - point[1]) * share];
  view.zoom = zoom;
}

export function pan(port, dx, dy) {
  const scale = scaleOf(port),
    [height, width] = state.size;
  const [x, y] = view.centre ?? [width / 2, height / 2];
  const half = [port.clientWidth / scale / 2, port.clientHeight / scale / 2];
  const keep = (value, side, reach) =>
    side <= 2 * reach ? side / 2 : clamp(value, reach, side - reach);
  view.centre = [keep(x - dx / scale, width, half[0]), keep(y - dy / scale, height, half[1])];
}

export function handlesOf([x1, y1, x2, y2]) {
  const x = (x1 + x2) / 2,
    y = (y1 + y2) / 2;
  return [
    [x1, y1],
    [x, y1],
    [x2, y1],
    [x2, y],
    [x2, y2],
    [x, y2],
    [x1, y2],
    [x1, y],
  ];
}
