// A small chart of the last minutes: an area with a line on it, and where wanted a thinner line for the extremes.
const SVG = "http://www.w3.org/2000/svg";
const SECONDS = 300;
const SECONDS_MIN = 60;
const WIDTH = 300;
const HEIGHT = 56;

function shape(name, attributes, parent) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  parent.append(made);
  return made;
}

// A round number that is not below `value`: 1, 2 or 5 times a power of ten.
function ceiling(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((times) => times * power).find((each) => each >= value * 0.999);
}

export class Chart {
  // of(second) -> the value, or null where there is none; extreme(second) likewise.
  constructor({ title, unit, of, extreme = null }) {
    this.of = of;
    this.extreme = extreme;
    this.unit = unit;
    this.seconds = [];
    this.element = document.createElement("figure");
    this.element.className = "chart";
    const caption = document.createElement("figcaption");
    this.value = document.createElement("output");
    caption.append(title, this.value);
    this.top = document.createElement("span");
    this.top.className = "top-label";
    const box = document.createElement("div");
    box.className = "plot";
    this.svg = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" }, box);
    this.svg.setAttribute("aria-label", `${title}, the last five minutes`);
    for (const share of [0, 0.5, 1]) {
      shape("line", { class: "grid", x1: 0, x2: WIDTH, y1: share * HEIGHT, y2: share * HEIGHT }, this.svg);
    }
    this.area = shape("path", { class: "area" }, this.svg);
    this.high = shape("path", { class: "high" }, this.svg);
    this.line = shape("path", { class: "line" }, this.svg);
    this.cursor = shape("line", { class: "cursor", y1: 0, y2: HEIGHT, visibility: "hidden" }, this.svg);
    box.append(this.top);
    const axis = document.createElement("div");
    axis.className = "axis";
    this.begin = document.createElement("span");
    axis.append(this.begin, "now");
    this.element.append(caption, box, axis);
    box.addEventListener("pointermove", (event) => this.point(event, box));
    box.addEventListener("pointerleave", () => this.unpoint());
  }

  draw(seconds) {
    this.seconds = seconds.slice(-SECONDS);
    this.span = Math.max(SECONDS_MIN, this.seconds.length);
    this.begin.textContent = this.span < 90 ? `${this.span} s ago` : `${Math.round(this.span / 6) / 10} min ago`;
    const numbers = this.seconds.flatMap((each) => [this.of(each), this.extreme ? this.extreme(each) : null]);
    this.max = ceiling(Math.max(0, ...numbers.filter((each) => each !== null)));
    this.top.textContent = `${this.max} ${this.unit}`;
    this.line.setAttribute("d", this.path(this.of));
    this.high.setAttribute("d", this.extreme ? this.path(this.extreme) : "");
    this.area.setAttribute("d", this.path(this.of, true));
    if (!this.pointed) this.say(this.seconds.at(-1), null);
  }

  x(index) {
    return WIDTH - (this.seconds.length - 1 - index) * (WIDTH / (this.span - 1));
  }

  y(value) {
    return HEIGHT - (Math.min(value, this.max) / this.max) * (HEIGHT - 2);
  }

  // Where there is no value the line is broken.
  path(of, closed = false) {
    let path = "";
    let begin = null;
    const close = (index) => (closed && begin !== null ? `L${this.x(index).toFixed(1)} ${HEIGHT}L${begin} ${HEIGHT}Z` : "");
    this.seconds.forEach((second, index) => {
      const value = of(second);
      if (value === null) {
        path += close(index - 1);
        begin = null;
        return;
      }
      path += `${begin === null ? "M" : "L"}${this.x(index).toFixed(1)} ${this.y(value).toFixed(1)}`;
      begin = begin ?? this.x(index).toFixed(1);
    });
    return path + close(this.seconds.length - 1);
  }

  point(event, box) {
    const { left, width } = box.getBoundingClientRect();
    const ago = Math.round((1 - (event.clientX - left) / width) * (this.span - 1));
    const index = this.seconds.length - 1 - ago;
    if (index < 0 || index >= this.seconds.length) return this.unpoint();
    this.pointed = true;
    this.cursor.setAttribute("x1", this.x(index));
    this.cursor.setAttribute("x2", this.x(index));
    this.cursor.setAttribute("visibility", "visible");
    this.say(this.seconds[index], ago);
  }

  unpoint() {
    this.pointed = false;
    this.cursor.setAttribute("visibility", "hidden");
    this.say(this.seconds.at(-1), null);
  }

  say(second, ago) {
    const value = second ? this.of(second) : null;
    const high = second && this.extreme ? this.extreme(second) : null;
    const parts = [value === null ? "–" : `${value} ${this.unit}`];
    if (high !== null) parts.push(`max ${high}`);
    if (ago !== null) parts.unshift(`${ago} s ago`);
    this.value.textContent = parts.join(" · ");
  }
}
