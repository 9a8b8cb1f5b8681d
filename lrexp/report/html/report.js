"use strict";
// Draws the charts of a report, links their cursors, sorts tables. No library, no network.
(() => {
  const NS = "http://www.w3.org/2000/svg";
  const charts = [];

  // ---- small parts

  function svg(name, attributes = {}, ...children) {
    const node = document.createElementNS(NS, name);
    for (const [key, value] of Object.entries(attributes)) {
      if (value !== undefined && value !== null) node.setAttribute(key, value);
    }
    node.append(...children);
    return node;
  }

  function html(name, attributes = {}, ...children) {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  }

  const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
  const textWidth = (text) => 6.7 * String(text).length; // 12 px figures are of one width

  function shown(value, percent = false, digits = 3) {
    if (!isNumber(value)) return "–";
    if (percent) return shown(100 * value, false, Math.abs(value) >= 0.9995 ? 4 : digits) + " %";
    if (value === 0) return "0";
    const size = Math.floor(Math.log10(Math.abs(value)));
    let text;
    if (Number.isInteger(value) && size < 6) text = value.toLocaleString("en-US");
    else if (size < -4 || size >= 6) text = value.toExponential(digits - 1).replace("e+", "e");
    else text = value.toLocaleString("en-US", {
      minimumFractionDigits: Math.max(0, digits - 1 - size),
      maximumFractionDigits: Math.max(0, digits - 1 - size),
    });
    return text.replace("-", "−");
  }

  function shortened(text, most) {
    text = String(text);
    if (text.length <= most) return text;
    const tail = Math.floor((most - 1) / 2);
    return text.slice(0, most - 1 - tail) + "…" + text.slice(text.length - tail);
  }

  // ---- axes

  /** Round numbers between two bounds, about `count` of them; labels share their decimals. */
  function linearTicks(low, high, count, whole) {
    const raw = (high - low) / Math.max(1, count);
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = (whole ? [1, 2, 5, 10] : [1, 2, 2.5, 5, 10]).map((m) => m * power).find((s) => s >= Math.max(raw * 0.999, whole ? 1 : 0)) || 1;
    const ticks = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) ticks.push(i * step);
    const size = Math.floor(Math.log10(step) + 1e-9);
    const needs = Math.abs(step / 10 ** size - 2.5) < 1e-9 ? 1 : 0;
    const decimals = Math.max(0, needs - size);
    const largest = Math.max(Math.abs(low), Math.abs(high));
    const label = (value) => {
      if (Math.abs(value) < step * 1e-6) return "0";
      if (largest >= 1e6 || largest < 1e-3) return value.toExponential(2).replace("e+", "e").replace(/\.?0+e/, "e").replace("-", "−");
      return value.toLocaleString("en-US", { minimumFractionDigits: decimals, maximumFractionDigits: decimals }).replace("-", "−");
    };
    return ticks.map((value) => ({ value, label: label(value) }));
  }

  /** Powers of ten, with 2 and 5 between them when there are few, or round numbers of a short span. */
  function logTicks(low, high, count) {
    const decades = Math.log10(high / low);
    if (decades < 0.7) return linearTicks(low, high, count, false).filter((tick) => tick.value > 0);
    const factors = decades <= 1.5 ? [1, 2, 3, 5, 7] : decades <= 3 && count >= 4 ? [1, 2, 5] : decades <= 2 ? [1, 3] : [1];
    const every = factors.length > 1 ? 1 : Math.max(1, Math.ceil(decades / count));
    const ticks = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
      if (power % every) continue;
      for (const factor of factors) {
        const value = factor * 10 ** power;
        if (value >= low * 0.999 && value <= high * 1.001) ticks.push({ value, label: power < -3 || power > 4 ? `${factor}e${power}`.replace("-", "−") : shown(value, false, 1) });
      }
    }
    return ticks;
  }

  /** Where values lie between two ends of the screen. */
  function scale(low, high, from, to, log) {
    const at = log ? Math.log : (value) => value;
    const [a, b] = [at(low), at(high)];
    const place = (value) => from + ((at(value) - a) / (b - a || 1)) * (to - from);
    place.back = (pixel) => {
      const value = a + ((pixel - from) / (to - from || 1)) * (b - a);
      return log ? Math.exp(value) : value;
    };
    Object.assign(place, { low, high, log });
    return place;
  }

  /** The ends of an axis: the data and a little room. */
  function ends(values, { log, zero, range }, room) {
    if (range) return range;
    const finite = values.filter((value) => isNumber(value) && (!log || value > 0));
    if (!finite.length) return log ? [0.1, 1] : [0, 1];
    let low = Infinity, high = -Infinity;
    for (const value of finite) { if (value < low) low = value; if (value > high) high = value; }
    if (zero && !log) { low = Math.min(0, low); high = Math.max(0, high); }
    if (log) {
      if (low === high) return [low / 2, high * 2];
      const factor = (high / low) ** room;
      return [low / factor, high * factor];
    }
    if (low === high) { const pad = Math.abs(low) * 0.1 || 1; return [low - pad, high + pad]; }
    const pad = (high - low) * room;
    return [zero && low === 0 ? 0 : low - pad, zero && high === 0 ? 0 : high + pad];
  }

  const MARKERS = [
    (r) => `M${-r},0a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0Z`,
    (r) => `M${-r * 0.9},${-r * 0.9}h${1.8 * r}v${1.8 * r}h${-1.8 * r}Z`,
    (r) => `M0,${-1.2 * r}L${1.15 * r},${0.9 * r}H${-1.15 * r}Z`,
    (r) => `M0,${-1.3 * r}L${1.3 * r},0L0,${1.3 * r}L${-1.3 * r},0Z`,
    (r) => `M0,${1.2 * r}L${1.15 * r},${-0.9 * r}H${-1.15 * r}Z`,
    (r) => `M${-1.25 * r},${-0.45 * r}h${0.8 * r}v${-0.8 * r}h${0.9 * r}v${0.8 * r}h${0.8 * r}v${0.9 * r}h${-0.8 * r}v${0.8 * r}h${-0.9 * r}v${-0.8 * r}h${-0.8 * r}Z`,
  ];

  /** The outline of a dot of a series: its marker, or an arrow over an edge. */
  function outline(one, r) {
    if (one.kind !== "dots") return MARKERS[0](r);
    if (one.shape === "arrow") return one.edge === "top" ? `M0,${-r}L${r},${r * 0.8}H${-r}Z` : `M0,${r}L${r},${-r * 0.8}H${-r}Z`;
    if (one.shape === "cross") return `M${-r},${-r}L${r},${r}M${-r},${r}L${r},${-r}`;
    return MARKERS[one.marker](r);
  }

  /** What stands for a series in a legend or at the cursor. */
  function sample(parts) {
    const node = svg("svg", { width: 22, height: 12, "aria-hidden": "true", class: `s${parts[0].colour}` });
    for (const one of parts) {
      if (one.kind === "area" || (one.low && one.kind !== "dots")) node.append(svg("rect", { x: 1, y: 1, width: 20, height: 10, rx: 2, class: one.kind === "area" ? "area s" : "band s" }));
    }
    for (const one of parts) {
      if (one.kind === "line" || one.kind === "step") node.append(svg("path", { d: "M1,6H21", class: `line s d${one.dash}` }));
      if (one.kind === "dots" && parts.length === 1 && one.shape && one.shape !== "ring") node.append(svg("path", { d: outline(one, 4), transform: "translate(11 6)", class: `${one.shape === "cross" ? "cross" : "dot"} s` }));
      if (one.kind === "dots" && !one.shape) node.append(svg("path", { d: MARKERS[one.marker](4), transform: "translate(11 6)", class: "dot s" }));
    }
    return node;
  }

  /** The index of the number next to `x` among increasing ones. */
  function nearest(xs, x) {
    let low = 0, high = xs.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (xs[middle] < x) low = middle; else high = middle;
    }
    return Math.abs(xs[high] - x) < Math.abs(xs[low] - x) ? high : low;
  }

  // ---- what is saved

  const KEPT = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "stroke-linecap", "stroke-linejoin",
    "opacity", "font-size", "font-weight", "font-family", "text-anchor", "paint-order"];

  /** A copy of a drawing that looks the same without this page's style. */
  function styled(node) {
    const copy = node.cloneNode(true);
    const [from, to] = [node, copy].map((one) => [one, ...one.querySelectorAll("*")]);
    from.forEach((one, i) => {
      const style = getComputedStyle(one);
      for (const name of KEPT) if (style.getPropertyValue(name)) to[i].style.setProperty(name, style.getPropertyValue(name));
      to[i].removeAttribute("class");
    });
    return copy;
  }

  /** A chart as an SVG file: its title, the names of what is switched on, and the drawing. */
  function picture(chart) {
    const paper = getComputedStyle(document.body), [, , width, tall] = chart.svg.getAttribute("viewBox").split(" ").map(Number);
    const root = svg("svg", { width });
    const write = (text, x, y, weight) => root.append(svg("text", { x, y, fill: paper.color, "font-size": 12, "font-weight": weight, "font-family": paper.fontFamily }, text));
    root.append(svg("rect", { width, height: "100%", fill: paper.backgroundColor }));
    write(chart.spec.title, 4, 16, 600);
    let x = 4, y = 36;
    const keys = [...chart.legend.querySelectorAll('.key:not([aria-pressed="false"])')];
    for (const key of keys) {
      const needs = textWidth(key.textContent) + 44;
      if (x + needs > width && x > 4) { x = 4; y += 18; }
      const mark = styled(key.querySelector("svg"));
      mark.setAttribute("x", x);
      mark.setAttribute("y", y - 10);
      root.append(mark);
      write(key.textContent, x + 28, y, 400);
      x += needs;
    }
    const words = chart.legend.querySelector(".ramp");
    if (words) write([...words.querySelectorAll("span")].map((one) => one.textContent).join("   "), 4, y, 400);
    const top = keys.length || words ? y + 10 : 24, drawing = styled(chart.svg);
    drawing.setAttribute("y", top);
    drawing.setAttribute("width", width);
    drawing.setAttribute("height", tall);
    drawing.style.overflow = "visible";
    root.append(drawing);
    root.setAttribute("height", top + tall);
    return { text: new XMLSerializer().serializeToString(root), width, height: top + tall };
  }

  /** Rows of a table as CSV. */
  function csv(rows) {
    const cell = (value) => (/[",\n]/.test(value ?? "") ? `"${String(value).replaceAll('"', '""')}"` : value ?? "");
    return rows.map((row) => `${row.map(cell).join(",")}\n`).join("");
  }

  // ---- a chart: legend, drawing, cursor

  class Chart {
    constructor(figure) {
      this.figure = figure;
      this.spec = JSON.parse(figure.querySelector('script[type="application/json"]').textContent);
      this.plot = figure.querySelector(".plot");
      this.off = new Set((this.spec.series || []).filter((one) => one.hidden).map((one) => one.name));
      this.log = this.spec.y?.log; // a parallel chart has none
      this.legend = html("div", { class: "legend", role: "group", "aria-label": "Legend" });
      figure.insertBefore(this.legend, this.plot);
      this.tip = html("div", { class: "tip", role: "status" });
      this.tip.hidden = true;
      this.plot.setAttribute("tabindex", "0");
      this.plot.setAttribute("role", "group");
      this.plot.setAttribute("aria-label", `${this.spec.title}: chart, arrow keys move the cursor`);
      this.plot.addEventListener("pointermove", (event) => this.point(event));
      this.plot.addEventListener("pointerdown", (event) => {
        const before = this.target;
        this.point(event);
        this.ready = event.pointerType !== "touch" || (before && before === this.target); // a second tap opens
      });
      this.plot.addEventListener("pointerleave", (event) => { if (event.pointerType !== "touch") this.leave(); });
      this.plot.addEventListener("blur", () => this.leave());
      this.plot.addEventListener("keydown", (event) => this.key(event));
      this.plot.addEventListener("click", () => { if (this.target && this.ready) location.href = this.target; });
      this.fillLegend();
      if (!this.legend.children.length) this.legend.remove();
      if (!this.spec.compact) this.addTools();
    }

    /** Buttons that save the chart as it is seen, or its numbers. */
    addTools() {
      this.tools = html("div", { class: "tools", role: "group", "aria-label": `Save ${this.spec.title}` });
      for (const [kind, words] of [["SVG", "as a drawing"], ["PNG", "as a picture"], ["CSV", "its numbers"]]) {
        const button = html("button", { type: "button", class: "tool", title: `save ${words}` }, kind);
        button.addEventListener("click", () => this.save(kind));
        this.tools.append(button);
      }
      this.figure.insertBefore(this.tools, this.figure.querySelector("figcaption").nextSibling);
    }

    save(kind) {
      const name = `${this.spec.title.replace(/[^A-Za-z0-9]+/g, "_").replace(/^_|_$/g, "") || "chart"}.${kind.toLowerCase()}`;
      const give = (href) => html("a", { href, download: name }).click();
      if (kind === "CSV") { give(`data:text/csv;charset=utf-8,${encodeURIComponent(this.numbers())}`); return; }
      const { text, width, height } = picture(this);
      const source = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
      if (kind === "SVG") { give(source); return; }
      const image = new Image();
      image.onload = () => {
        const canvas = html("canvas", { width: 2 * width, height: 2 * height });
        canvas.getContext("2d").drawImage(image, 0, 0, 2 * width, 2 * height);
        give(canvas.toDataURL("image/png"));
      };
      image.src = source;
    }

    visible() { return this.spec.series.filter((one) => !this.off.has(one.name)); }

    draw(width = Math.max(240, Math.round(this.plot.clientWidth || 600)), flat = 1) {
      this.width = width;
      this.flat = flat; // a part of its height, on paper
      this.render(width);
      this.plot.append(this.tip);
    }

    at(event) {
      const box = this.svg.getBoundingClientRect();
      const ratio = this.width / (box.width || 1);
      return [(event.clientX - box.left) * ratio, (event.clientY - box.top) * ratio];
    }

    group() { return this.spec.cursor ? charts.filter((chart) => chart.spec.cursor === this.spec.cursor) : [this]; }

    leave() { for (const chart of this.group()) chart.clear(); }

    /** A button per name that switches what bears it off and on. */
    fillLegend() {
      this.legend.replaceChildren();
      const names = [...new Set(this.spec.series.map((one) => one.name))];
      if (!this.spec.legend || (names.length < 2 && !this.spec.series.some((one) => one.low))) return;
      for (const name of names) {
        const parts = this.spec.series.filter((one) => one.name === name);
        const key = html("button", { type: "button", class: "key", "aria-pressed": String(!this.off.has(name)), title: "show or hide; with Shift: show this one alone" }, sample(this.spec.kind === "parallel" ? parts.slice(0, 1) : parts), html("span", {}, name));
        key.addEventListener("click", (event) => {
          if (event.shiftKey) this.off = new Set(this.off.size === names.length - 1 && !this.off.has(name) ? [] : names.filter((other) => other !== name));
          else if (!this.off.delete(name)) this.off.add(name);
          for (const [i, button] of [...this.legend.querySelectorAll(".key")].entries()) button.setAttribute("aria-pressed", String(!this.off.has(names[i])));
          this.draw();
        });
        this.legend.append(key);
      }
    }

    clear() {
      this.tip.hidden = true;
      this.target = null;
      this.plot.style.cursor = "";
      if (this.over) this.over.replaceChildren();
    }

    showTip(x, y, nodes) {
      this.tip.replaceChildren(...nodes);
      this.tip.hidden = false;
      const ratio = (this.svg.getBoundingClientRect().width || this.width) / this.width;
      const [w, h] = [this.tip.offsetWidth, this.tip.offsetHeight];
      const left = x * ratio + 14 + w > this.plot.clientWidth ? x * ratio - w - 14 : x * ratio + 14;
      this.tip.style.left = `${clamp(left, 0, Math.max(0, this.plot.clientWidth - w))}px`;
      this.tip.style.top = `${clamp(y * ratio - h / 2, 0, Math.max(0, this.plot.clientHeight - h))}px`;
    }
  }

  class XyChart extends Chart {
    /** A line per point of what is switched on. */
    numbers() {
      const rows = [["series", this.spec.x.label || "x", this.spec.y.label || "y", "low", "high", "what"]];
      for (const one of this.visible()) {
        if (one.shape === "ring") continue;
        this.spec.xs[one.x].forEach((x, i) => rows.push([one.name, x, one.y[i], one.low?.[i], one.high?.[i], one.labels?.[i]]));
      }
      return csv(rows);
    }

    /** A part of the x axis alone, or (null) all of it. */
    zoomTo(ends) {
      this.zoom = ends;
      this.all.hidden = !ends;
      this.draw();
    }

    /** What is between two places of the pointer is all that is shown, once it is let go. */
    drag() {
      let from = null;
      const inside = (event) => clamp(this.at(event)[0], this.area.left, this.area.right);
      this.plot.addEventListener("pointerdown", (event) => { if (event.pointerType === "mouse" && event.button === 0) from = inside(event); });
      addEventListener("pointermove", (event) => {
        if (from === null || Math.abs(inside(event) - from) < 8) return;
        const [a, b] = [from, inside(event)].sort((one, other) => one - other);
        this.leave();
        this.over.replaceChildren(svg("rect", { x: a, y: this.area.top, width: b - a, height: this.area.bottom - this.area.top, class: "chosen" }));
      });
      addEventListener("pointerup", (event) => {
        if (from === null) return;
        const [a, b] = [from, inside(event)].sort((one, other) => one - other);
        from = null;
        if (b - a < 8) return;
        this.ready = false; // the click that follows opens nothing
        this.zoomTo([this.px.back(a), this.px.back(b)]);
      });
      this.plot.addEventListener("dblclick", () => this.zoomTo(null));
    }

    addTools() {
      super.addTools();
      this.all = html("button", { type: "button", class: "tool", title: "show the whole axis again; a double click does, too" }, "whole axis");
      this.all.hidden = true;
      this.all.addEventListener("click", () => this.zoomTo(null));
      this.tools.prepend(this.all);
      if (this.spec.cursor && this.spec.series.some((one) => one.kind === "line" && one.y.length > 7)) {
        const tool = html("button", { type: "button", class: "tool", "aria-pressed": "false", title: "an exponential average that forgets 0.3 of it at every point; the values themselves stay, pale" }, "smooth");
        tool.addEventListener("click", () => {
          this.smooth = !this.smooth;
          tool.setAttribute("aria-pressed", String(this.smooth));
          this.draw();
        });
        this.tools.prepend(tool);
      }
      this.drag();
    }

    /** Whether every value has a logarithm. */
    positive() {
      const all = this.spec.series.flatMap((one) => (one.edge ? [] : [...one.y, ...(one.kind === "area" ? one.low : [])])).filter(isNumber);
      return !this.spec.compact && !this.spec.y.percent && !this.spec.y.zero && all.length > 0 && all.every((value) => value > 0);
    }

    fillLegend() {
      super.fillLegend();
      for (const [shape, words] of Object.entries(this.spec.shapes || {})) {
        const one = { kind: "dots", shape, colour: 6, edge: this.spec.series.find((other) => other.shape === shape).edge };
        this.legend.append(html("span", { class: "key" }, sample([one]), html("span", {}, words)));
      }
      if (this.spec.y.button || this.positive()) {
        const tool = html("button", { type: "button", class: "tool", "aria-pressed": String(this.log) }, "log scale");
        tool.addEventListener("click", () => {
          this.log = !this.log;
          tool.setAttribute("aria-pressed", String(this.log));
          this.draw();
        });
        this.legend.append(tool);
      }
    }

    render(width) {
      const { spec } = this;
      const series = this.visible().sort((a, b) => Boolean(b.faint) - Boolean(a.faint)); // pale ones lie below
      const height = this.flat * spec.height + (spec.compact ? 22 : 40);
      const every = [], across = [];
      for (const one of series) {
        const floor = this.log ? 0 : -Infinity;
        if (!one.edge && !this.zoom) for (const list of [one.y, one.low, one.high]) if (list) for (const value of list) if (isNumber(value) && value > floor) every.push(value);
        const xs = spec.xs[one.x];
        if (this.zoom) {
          for (let i = 0; i < xs.length; i++) {
            const there = !one.edge && xs[i] >= this.zoom[0] && xs[i] <= this.zoom[1];
            for (const list of [one.y, one.low, one.high]) if (there && list && isNumber(list[i]) && list[i] > floor) every.push(list[i]);
          }
          continue;
        }
        if (one.kind === "area" || one.kind === "dots" || xs.length < 3) across.push(...xs);
        else { across.push(xs[0], xs[xs.length - 1]); if (spec.x.log) across.push(...xs); }
      }
      for (const rule of spec.rules) every.push(rule.y);
      for (const mark of spec.marks) across.push(mark.x);
      if (this.log) { // a band that reaches down to zero does not stretch the axis
        const lines = series.flatMap((one) => (one.edge ? [] : one.y || []).filter((value) => isNumber(value) && value > 0));
        const least = Math.min(...lines) / 2;
        for (let i = 0; i < every.length; i++) if (every[i] < least) every[i] = least;
      }
      const written = series.some((one) => one.texts); // beside the lowest dot, too
      const [bottom, top] = ends(every, { ...spec.y, log: this.log, range: this.zoom && every.length ? null : spec.y.range }, written ? 0.1 : 0.06);
      const dotted = series.some((one) => one.kind === "dots");
      const [left, right] = this.zoom || ends(across, spec.x, dotted ? 0.05 : 0.012);
      const area = { top: spec.marks.some((mark) => mark.label) ? 20 : 8, bottom: height - (spec.x.label ? 40 : 22) };
      const strip = this.pileUp(); // outside the axis: what lies there has no place on it
      const floor = area.bottom - strip.bottom, ceiling = area.top + strip.top;
      const yCount = Math.max(2, Math.round((floor - ceiling) / 52));
      const ticks = (count) => this.log ? logTicks(bottom, top, count + 1) : spec.y.percent ? linearTicks(100 * bottom, 100 * top, count).map((tick) => ({ value: tick.value / 100, label: `${tick.label} %` })) : linearTicks(bottom, top, count, false);
      let yTicks = ticks(yCount);
      if (yTicks.length < 2) yTicks = ticks(2 * yCount); // one label says nothing about the scale
      const least = spec.compact || width < 480 ? 26 : 46; // charts above each other begin alike
      area.left = Math.max(least, ...yTicks.map((tick) => textWidth(tick.label) + 10)) + (spec.y.label ? 20 : 0);
      area.right = width - 12;
      const px = scale(left, right, area.left, area.right, spec.x.log);
      const py = scale(bottom, top, floor, ceiling, this.log);
      const whole = !spec.x.log && spec.xs.every((xs) => xs.every(Number.isInteger));
      const xCount = Math.max(2, Math.floor((area.right - area.left) / (spec.compact ? 46 : 64)));
      const given = spec.x.ticks.map((value) => ({ value, label: shown(value, false, 4).replace(/(\.\d*?)0+(?=$|e)/, "$1").replace(/\.(?=$|e)/, "") }));
      const fit = given.filter((tick) => tick.value >= left && tick.value <= right);
      const xTicks = fit.length ? fit : spec.x.log ? logTicks(left, right, xCount) : linearTicks(left, right, xCount, whole);
      Object.assign(this, { px, py, area });
      this.spots = written ? series.filter((one) => one.y.length).flatMap((one) => this.covers(one)) : [];

      const id = `clip${charts.indexOf(this)}`;
      const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": spec.title });
      root.append(svg("defs", {}, svg("clipPath", { id }, svg("rect", { x: area.left, y: area.top - 4, width: area.right - area.left + 6, height: area.bottom - area.top + 5 }))));
      for (const tick of yTicks) {
        const y = py(tick.value);
        root.append(svg("line", { x1: area.left, x2: area.right, y1: y, y2: y, class: "gridline" }));
        root.append(svg("text", { x: area.left - 8, y: y + 4, "text-anchor": "end" }, tick.label));
      }
      root.append(svg("line", { x1: area.left, x2: area.right, y1: area.bottom, y2: area.bottom, class: "axis" }));
      for (const y of [strip.top && ceiling, strip.bottom && floor].filter(Boolean)) root.append(svg("line", { x1: area.left, x2: area.right, y1: y, y2: y, class: "divide" }));
      let taken = -Infinity;
      for (const tick of xTicks) {
        const x = px(tick.value), half = textWidth(tick.label) / 2;
        root.append(svg("line", { x1: x, x2: x, y1: area.bottom, y2: area.bottom + 4, class: "axis" }));
        if (x - half < taken + 6) continue;
        taken = x + half;
        root.append(svg("text", { x: Math.min(x, width - half), y: area.bottom + 17, "text-anchor": "middle" }, tick.label));
      }
      if (spec.x.label) root.append(svg("text", { x: (area.left + area.right) / 2, y: height - 4, "text-anchor": "middle" }, spec.x.label));
      if (spec.y.label) {
        const y = (area.top + area.bottom) / 2;
        root.append(svg("text", { x: 12, y, "text-anchor": "middle", transform: `rotate(-90 12 ${y})` }, spec.y.label));
      }
      const inside = svg("g", { "clip-path": `url(#${id})` });
      this.rings = [];
      root.append(inside);
      for (const rule of spec.rules) inside.append(svg("line", { x1: area.left, x2: area.right, y1: py(rule.y), y2: py(rule.y), class: "rule" }));
      for (const one of series) if (one.low) inside.append(this.between(one));
      for (const one of series) if (one.kind === "line" || one.kind === "step") inside.append(this.line(one));
      for (const one of series) if (one.kind === "dots") inside.append(...this.dots(one));
      for (const rule of spec.rules) if (rule.label) root.append(svg("text", { x: area.right, y: py(rule.y) - 5, "text-anchor": "end", class: "mark halo" }, rule.label));
      let edge = -Infinity;
      for (const mark of [...spec.marks].sort((a, b) => a.x - b.x)) {
        if (mark.x < left || mark.x > right) continue; // zoomed out of sight
        const x = px(mark.x), bad = mark.kind === "bad" ? " bad" : "";
        root.append(svg("line", { x1: x, x2: x, y1: area.top - 4, y2: area.bottom, class: `markline${bad}` }));
        if (!mark.label) continue;
        const half = textWidth(mark.label) / 2;
        const middle = clamp(x, area.left + half, Math.max(area.left + half, width - half - 2));
        if (middle - half < edge + 6) continue;
        edge = middle + half;
        root.append(svg("text", { x: middle, y: area.top - 8, "text-anchor": "middle", class: `mark${bad} halo` }, mark.label));
      }
      this.over = svg("g", { class: "over" });
      root.append(this.over);
      this.plot.replaceChildren(root);
      this.svg = root;
    }

    /** Piles those at one place of an edge, the closer the more there are; returns how many pixels
        the piles take at either edge. */
    pileUp() {
      this.piles = new Map();
      const counts = new Map(), strip = { top: 0, bottom: 0 };
      const edged = this.visible().filter((other) => other.edge);
      for (const one of edged) this.piles.set(one, this.spec.xs[one.x].map((x) => {
        const key = `${one.edge} ${x}`, below = counts.get(key) || 0;
        counts.set(key, below + 1);
        return below;
      }));
      const most = Math.max(1, ...counts.values());
      const apart = Math.min(10, (80 * this.flat) / most);
      for (const one of edged) {
        this.piles.set(one, this.piles.get(one).map((below) => apart * below));
        strip[one.edge] = Math.max(strip[one.edge], ...this.piles.get(one).map((up) => up + 16));
      }
      return strip;
    }

    /** Places that a series draws on: its dots, or steps along its line. */
    covers(one) {
      const places = one.y.map((_, i) => this.place(one, i));
      if (one.kind === "dots") return places.filter(Boolean);
      return places.slice(1).flatMap((to, i) => {
        const from = places[i];
        if (!from || !to) return [];
        const steps = Math.ceil(Math.hypot(to[0] - from[0], to[1] - from[1]) / 20);
        return Array.from({ length: steps }, (_, k) => [0, 1].map((axis) => from[axis] + ((k + 0.5) / steps) * (to[axis] - from[axis])));
      });
    }

    /** Where words beside a ring cover the fewest of them. */
    beside([x, y], width) {
      const { left, right, top, bottom } = this.area, half = width / 2;
      const middle = clamp(x, left + half, Math.max(left + half, right - half));
      const outside = (a, b) => a - half < left || a + half > right || b < top + 12 || b > bottom - 2;
      const covered = ([a, b]) => (outside(a, b) ? 100 : 0) + this.spots.filter(([p, q]) => Math.abs(p - a) < half + 5 && q > b - 17 && q < b + 8).length;
      const places = [[middle, y + 25], [middle, y - 16], [x + 16 + half, y + 4], [x - 16 - half, y + 4]];
      return places.reduce((best, other) => (covered(other) < covered(best) ? other : best));
    }

    place(one, i, list = one.y) {
      const x = this.spec.xs[one.x][i], y = list[i];
      if (this.px.log && x <= 0) return null;
      const across = this.px(x);
      if (one.edge) {
        const pile = this.piles.get(one)[i];
        return [across, one.edge === "top" ? this.area.top + 4 + pile : this.area.bottom - 8 - pile];
      }
      if (!isNumber(y)) return null;
      if (this.log && y <= 0) return list === one.y ? null : [across, this.area.bottom + 4];
      return [across, this.py(y)];
    }

    line(one) {
      if (this.smooth && one.kind === "line" && one.y.length > 7 && !one.smoothed) {
        let sum = 0, weight = 0;
        const y = one.y.map((value) => {
          if (!isNumber(value)) return null;
          sum = 0.7 * sum + 0.3 * value;
          weight = 0.7 * weight + 0.3;
          return sum / weight;
        });
        return svg("g", {}, this.line({ ...one, smoothed: true, faint: true }), this.line({ ...one, y, smoothed: true }));
      }
      let path = "", before = null, alone = "";
      const count = one.y.length;
      for (let i = 0; i < count; i++) {
        const at = this.place(one, i);
        if (!at) { before = null; continue; }
        const [x, y] = at.map((value) => value.toFixed(1));
        if (!before) {
          path += `M${x},${y}`;
          if (i + 1 >= count || !this.place(one, i + 1)) alone += MARKERS[0](4).replace("M-4,0", `M${(at[0] - 4).toFixed(1)},${y}`);
        } else path += one.kind === "step" ? `H${x}V${y}` : `L${x},${y}`;
        before = at;
      }
      const kind = `line s s${one.colour} d${one.dash}${one.faint ? " faint" : ""}`;
      const group = svg("g", { "data-series": one.name }, svg("path", { d: path, class: kind }));
      if (alone) group.append(svg("path", { d: alone, class: `dot s s${one.colour}` }));
      return group;
    }

    between(one) {
      let path = "", run = [], alone = "";
      const close = () => {
        if (run.length === 1) { // no band, but its height
          const [x, high] = this.place(one, run[0], one.high), low = this.place(one, run[0], one.low)[1];
          alone += `M${x - 5},${high}h10m-5,0V${low}m-5,0h10`;
        }
        if (run.length > 1) path += "M" + run.map((i) => this.place(one, i, one.high).map((v) => v.toFixed(1))).join("L") + "L" + run.reverse().map((i) => this.place(one, i, one.low).map((v) => v.toFixed(1))).join("L") + "Z";
        run = [];
      };
      for (let i = 0; i < one.low.length; i++) {
        if (this.place(one, i, one.low) && this.place(one, i, one.high)) run.push(i);
        else close();
      }
      close();
      const group = svg("g", { "data-series": one.name, class: `s${one.colour}` }, svg("path", { d: path, class: `${one.kind === "area" ? "area" : "band"} s` }));
      if (alone && one.kind !== "area") group.append(svg("path", { d: alone, class: "whisker" }));
      return group;
    }

    dots(one) {
      const radius = one.faint ? 2.6 : this.spec.compact ? 3 : 4;
      const found = [];
      for (let i = 0; i < one.y.length; i++) {
        const at = this.place(one, i);
        if (at && one.shape === "ring") {
          const inside = this.rings.filter(([x, y]) => Math.hypot(x - at[0], y - at[1]) < 3).length;
          this.rings.push(at);
          found.push(svg("circle", { cx: at[0].toFixed(1), cy: at[1].toFixed(1), r: 9 + 3 * inside, class: `ring s s${one.colour}`, "data-series": one.name }));
          if (one.texts && one.texts[i]) {
            const [x, y] = this.beside(at, 1.1 * textWidth(one.texts[i]) + 4); // bold
            found.push(svg("text", { x, y, "text-anchor": "middle", class: "mark halo strong", "data-series": one.name }, one.texts[i]));
          }
          continue;
        }
        if (at) found.push(svg("path", { d: outline(one, radius), transform: `translate(${at[0].toFixed(1)} ${at[1].toFixed(1)})`, class: `${one.shape === "cross" ? "cross" : "dot"} s s${one.colour}${one.links && one.links[i] ? " link" : ""}${one.faint ? " faint" : ""}`, "data-series": one.name }));
      }
      return found;
    }

    point(event) {
      const [x, y] = this.at(event);
      if (this.spec.hover === "nearest") { this.showNearest(x, y); return; }
      const value = this.snap(this.px.back(clamp(x, this.area.left, this.area.right)));
      if (value === null) return;
      for (const chart of this.group()) chart.show(value, chart === this ? y : null);
    }

    /** The x that a cursor at `value` stands on: that of the nearest point of any series. */
    snap(value) {
      let best = null;
      for (const one of this.visible()) {
        const xs = this.spec.xs[one.x];
        if (!xs.length || one.quiet) continue;
        const x = xs[nearest(xs, value)];
        if (best === null || Math.abs(x - value) < Math.abs(best - value)) best = x;
      }
      return best;
    }

    show(value, y) {
      this.value = value;
      const x = this.px(value);
      if (!this.svg || x < this.area.left - 8 || x > this.area.right + 8) { this.clear(); return; }
      this.over.replaceChildren(svg("line", { x1: x, x2: x, y1: this.area.top, y2: this.area.bottom, class: "cursor" }));
      const lines = [];
      for (const one of this.visible()) {
        if (one.quiet) continue;
        const xs = this.spec.xs[one.x];
        if (!xs.length) continue;
        const i = nearest(xs, value);
        const span = xs.length > 1 ? (xs[xs.length - 1] - xs[0]) / (xs.length - 1) : 1;
        if (Math.abs(xs[i] - value) > span * 0.51) continue;
        const at = one.kind === "area" ? null : this.place(one, i);
        if (at) this.over.append(svg("path", { d: MARKERS[0](3.6), transform: `translate(${at[0]} ${at[1]})`, class: `dot s s${one.colour}` }));
        const text = one.kind === "area" ? `${this.format(one.low[i])} … ${this.format(one.high[i])}` : this.format(one.y[i]) + (one.low && isNumber(one.low[i]) && isNumber(one.high[i]) ? ` ± ${this.format((one.high[i] - one.low[i]) / 2, 2)}` : "");
        lines.push(html("div", {}, sample([one]), html("span", {}, one.name), html("em", {}, one.labels ? one.labels[i] : text)));
      }
      const named = `${this.spec.x.label || "x"} ${shown(value, false, 4)}`;
      const more = lines.length > 14 ? [html("span", { class: "quiet" }, `and ${lines.length - 14} more`)] : [];
      this.showTip(x, y === null ? (this.area.top + this.area.bottom) / 2 : y, [html("b", {}, named), ...lines.slice(0, 14), ...more]);
    }

    format(value, digits = 3) { return shown(value, this.spec.y.percent, digits); }

    showNearest(x, y) {
      let best = null, distance = 26;
      const all = [];
      for (const one of this.visible()) {
        if (one.kind === "area" || one.quiet) continue;
        for (let i = 0; i < one.y.length; i++) {
          const at = this.place(one, i);
          if (!at) continue;
          const far = Math.hypot(at[0] - x, at[1] - y) + (one.kind === "dots" ? 0 : 4);
          if (far < 30 && one.labels) all.push([one, i, at]);
          if (far < distance) { distance = far; best = [one, i, at]; }
        }
      }
      if (!best) { this.clear(); return; }
      const [one, i, at] = best;
      const beneath = all.filter(([other, k, place]) => (other !== one || k !== i) && Math.hypot(place[0] - at[0], place[1] - at[1]) < 3);
      this.over.replaceChildren(svg("path", { d: outline(one, 6), transform: `translate(${at[0]} ${at[1]})`, class: `${one.shape === "cross" ? "cross" : "dot"} s s${one.colour}` }));
      this.target = one.links && one.links[i] ? one.links[i] : null;
      this.plot.style.cursor = this.target ? "pointer" : "";
      const label = one.labels && one.labels[i] ? [html("b", {}, one.labels[i])] : [html("b", {}, one.name)];
      const band = one.low && isNumber(one.low[i]) && isNumber(one.high[i]) ? ` ± ${this.format((one.high[i] - one.low[i]) / 2, 2)}` : "";
      const rows = [[this.spec.x.label || "x", shown(this.spec.xs[one.x][i], false, 4)]];
      if (isNumber(one.y[i])) rows.push([this.spec.y.label || "value", this.format(one.y[i], 4) + band]);
      const lines = rows.map(([name, text]) => html("div", {}, html("i", {}), html("span", {}, name), html("em", {}, text)));
      const key = label[0].textContent === one.name ? [] : [html("div", {}, sample([one]), html("span", {}, one.name), html("em", {}))];
      const opens = this.target ? [html("span", { class: "quiet" }, `click opens its ${this.target.endsWith("/") ? "folder" : "report"}`)] : [];
      const others = beneath.slice(0, 4).map(([other, k]) => html("span", { class: "quiet" }, `there too: ${other.labels[k]}`));
      if (beneath.length > 4) others.push(html("span", { class: "quiet" }, `and ${beneath.length - 4} more`));
      this.showTip(at[0], at[1], [...label, ...key, ...lines, ...others, ...opens]);
    }

    key(event) {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (event.key === "Escape") this.leave();
      if (!step || this.spec.hover === "nearest") return;
      event.preventDefault();
      const all = [...new Set(this.visible().filter((one) => !one.quiet).flatMap((one) => this.spec.xs[one.x]))].sort((a, b) => a - b);
      if (!all.length) return;
      const i = this.value === undefined || this.tip.hidden ? (step > 0 ? 0 : all.length - 1) : clamp(nearest(all, this.value) + step, 0, all.length - 1);
      for (const chart of this.group()) chart.show(all[i], null);
    }
  }

  class HeatMap extends Chart {
    /** A line per cell. */
    numbers() {
      const { spec } = this;
      const cells = spec.rows.flatMap((row, r) => spec.columns.map((column, c) => [row, column, spec.values[r][c]]));
      return csv([[spec.y.label || "row", spec.x.label || "column", spec.label || "value"], ...cells]);
    }

    fillLegend() {
      const { spec } = this;
      const flat = spec.values.flat().filter((value) => isNumber(value) && (!spec.log || value > 0));
      this.low = flat.length ? flat.reduce((a, b) => Math.min(a, b)) : 0;
      this.high = flat.length ? flat.reduce((a, b) => Math.max(a, b)) : 1;
      if (spec.between) [this.low, this.high] = spec.between;
      if (!flat.length) return;
      const ramp = html("i", spec.reverse ? { class: "reverse" } : {});
      const words = [spec.label, this.format(this.low), ramp, this.format(this.high), spec.log ? "log scale" : ""];
      this.legend.append(html("span", { class: "ramp" }, ...words.filter(Boolean).map((word) => (word === ramp ? ramp : html("span", {}, word)))));
    }

    format(value) { return shown(value, this.spec.percent); }

    strength(value) {
      if (!isNumber(value) || (this.spec.log && value <= 0)) return null;
      if (this.high === this.low) return 0.5;
      const at = this.spec.log ? Math.log : (v) => v;
      const part = (at(value) - at(this.low)) / (at(this.high) - at(this.low));
      return this.spec.reverse ? 1 - part : part;
    }

    render(width) {
      const { spec } = this;
      const nr = spec.rows.length, nc = spec.columns.length;
      const most = width < 520 ? 14 : width < 900 ? 26 : 40;
      const labels = spec.rows.map((row) => shortened(row, most));
      const area = { top: 4, left: Math.max(24, ...labels.map((label) => 1.06 * textWidth(label) + 12)) + (spec.y.label ? 20 : 0) };
      let right = width - 4;
      let across = (right - area.left) / nc;
      if (spec.square) { across = Math.min(across, 46); right = area.left + across * nc; }
      const down = spec.square ? Math.max(across * 0.86, 4) : clamp(190 / nr, 9, 30);
      area.right = right;
      area.bottom = area.top + down * nr;
      const height = area.bottom + (spec.x.label ? 40 : 22);
      Object.assign(this, { area, across, down });
      const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": spec.title });
      const id = `none${charts.indexOf(this)}`;
      root.append(svg("defs", {}, svg("pattern", { id, width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" }, svg("line", { x1: 0, x2: 0, y1: 0, y2: 6, class: "hatch" }))));
      const seam = across > 9 && down > 9 ? 1 : 0; // a line of paper between large cells
      const levels = new Map();
      for (let r = 0; r < nr; r++) for (let c = 0; c < nc; c++) {
        const part = this.strength(spec.values[r][c]);
        const level = part === null ? -1 : Math.round(part * 40); // -1: hatched
        const x = area.left + c * across, y = area.top + r * down;
        levels.set(level, (levels.get(level) || "") + `M${x.toFixed(2)},${y.toFixed(2)}h${(across - seam + (seam ? 0 : 0.4)).toFixed(2)}v${(down - seam + (seam ? 0 : 0.4)).toFixed(2)}h${-(across - seam + (seam ? 0 : 0.4)).toFixed(2)}Z`);
      }
      for (const [level, path] of levels) {
        const part = level / 40, node = svg("path", { d: path, fill: `url(#${id})` });
        if (level >= 0) node.style.fill = part <= 0.5 ? `color-mix(in oklab, var(--heat1) ${200 * part}%, var(--heat0))` : `color-mix(in oklab, var(--heat2) ${200 * part - 100}%, var(--heat1))`;
        root.append(node);
      }
      const longest = spec.numbers ? Math.max(0, ...spec.values.flat().filter(isNumber).map((value) => textWidth(this.format(value)))) : 0;
      if (spec.numbers && down >= 14 && (spec.square || longest <= across - 2)) { // all or none
        for (let r = 0; r < nr; r++) for (let c = 0; c < nc; c++) {
          const value = spec.values[r][c], part = this.strength(value);
          if (part === null || (spec.square && value === 0)) continue;
          const label = this.format(value);
          if (textWidth(label) > across - 2) continue;
          const text = svg("text", { x: area.left + (c + 0.5) * across, y: area.top + (r + 0.5) * down + 4, "text-anchor": "middle" }, label);
          text.style.fill = part > 0.55 ? "var(--heat-ink)" : "var(--ink)";
          root.append(text);
        }
      }
      const rowEvery = Math.max(1, Math.ceil(12 / down));
      labels.forEach((label, r) => { if (r % rowEvery === 0) root.append(svg("text", { x: area.left - 8, y: area.top + (r + 0.5) * down + 4, "text-anchor": "end" }, label, svg("title", {}, spec.rows[r]))); });
      const names = spec.columns.map((column) => (typeof column === "number" ? shown(column, false, 4) : shortened(column, 14)));
      const widest = Math.max(...names.map(textWidth)) + 8;
      const every = Math.max(1, Math.ceil(widest / across));
      const round = [1, 2, 5, 10, 20, 25, 50, 100, 200, 500, 1000].find((n) => n >= every) || every;
      names.forEach((name, c) => {
        const numeric = typeof spec.columns[c] === "number";
        if (numeric ? spec.columns[c] % round && nc > 1 && every > 1 : c % every) return;
        root.append(svg("text", { x: area.left + (c + 0.5) * across, y: area.bottom + 16, "text-anchor": "middle" }, name));
      });
      if (spec.x.label) root.append(svg("text", { x: (area.left + right) / 2, y: height - 4, "text-anchor": "middle" }, spec.x.label));
      if (spec.y.label) {
        const y = (area.top + area.bottom) / 2;
        root.append(svg("text", { x: 12, y, "text-anchor": "middle", transform: `rotate(-90 12 ${y})` }, spec.y.label));
      }
      this.over = svg("g", { class: "over" });
      root.append(this.over);
      this.plot.replaceChildren(root);
      this.svg = root;
    }

    point(event) {
      const [x, y] = this.at(event);
      const c = Math.floor((x - this.area.left) / this.across), r = Math.floor((y - this.area.top) / this.down);
      const { rows, columns } = this.spec;
      if (c < 0 || c >= columns.length || r < 0 || r >= rows.length) { this.leave(); return; }
      if (this.spec.cursor) for (const chart of this.group()) if (chart !== this) chart.show(columns[c], null);
      this.showCell(r, c);
    }

    showCell(r, c) {
      const { spec, area, across, down } = this;
      this.row = r; this.column = c;
      this.over.replaceChildren(svg("rect", { x: area.left + c * across, y: area.top + r * down, width: across, height: down, class: "cell-edge" }));
      this.target = spec.links && spec.links[r][c] ? spec.links[r][c] : null;
      this.plot.style.cursor = this.target ? "pointer" : "";
      const text = spec.labels ? spec.labels[r][c] : this.format(spec.values[r][c]);
      const place = spec.labels ? [] : [html("span", { class: "quiet" }, `${spec.x.label ? `${spec.x.label} ` : ""}${typeof spec.columns[c] === "number" ? shown(spec.columns[c], false, 4) : spec.columns[c]}`)];
      const opens = this.target ? [html("span", { class: "quiet" }, `click opens its ${this.target.endsWith("/") ? "folder" : "report"}`)] : [];
      const lines = spec.labels ? [html("b", {}, text)] : [html("b", {}, spec.rows[r]), html("div", {}, html("i", {}), html("span", {}, spec.label || "value"), html("em", {}, text))];
      this.showTip(area.left + (c + 0.5) * across, area.top + (r + 0.5) * down, [...lines, ...place, ...opens]);
    }

    /** The cursor of another chart: the column is framed. */
    show(value) {
      const c = this.spec.columns.length ? nearest(this.spec.columns, value) : -1;
      if (c < 0 || !this.svg) return;
      const { area, across } = this;
      this.tip.hidden = true;
      this.over.replaceChildren(svg("rect", { x: area.left + c * across, y: area.top, width: across, height: area.bottom - area.top, class: "cell-edge" }));
    }

    key(event) {
      const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
      if (event.key === "Escape") this.leave();
      if (!step) return;
      event.preventDefault();
      const r = clamp((this.row ?? 0) + step[0], 0, this.spec.rows.length - 1);
      const c = clamp((this.column ?? -1) + step[1], 0, this.spec.columns.length - 1);
      if (this.spec.cursor) for (const chart of this.group()) if (chart !== this) chart.show(this.spec.columns[c], null);
      this.showCell(r, c);
    }
  }

  /** Upright axes, and a line per thing from one axis to the next. */
  class Parallel extends Chart {
    numbers() {
      return csv([["series", ...this.spec.axes.map((axis) => axis.label), "what"], ...this.visible().map((one) => [one.name, ...one.texts, one.label])]);
    }

    render(width) {
      const { axes } = this.spec, last = axes.length - 1;
      const after = Math.min(80, 12 + Math.max(...axes[last].ticks.map(([, label]) => textWidth(label))));
      const left = 16, right = width - after, apart = (right - left) / Math.max(1, last);
      const rows = clamp(Math.ceil(Math.max(...axes.map((axis) => textWidth(axis.label) + 8)) / apart), 1, 3);
      const top = 10 + 16 * rows, bottom = top + this.flat * this.spec.height;
      Object.assign(this, { left, apart, top, bottom });
      const root = svg("svg", { viewBox: `0 0 ${width} ${bottom + 10}`, role: "img", "aria-label": this.spec.title });
      for (const one of [...this.visible()].reverse()) root.append(svg("path", { d: this.path(one), class: `line strand s s${one.colour} d${one.dash}${one.best ? "" : " faint"}`, "data-series": one.name }));
      this.over = svg("g", { class: "over" });
      root.append(this.over);
      axes.forEach((axis, i) => {
        const x = left + i * apart, half = textWidth(axis.label) / 2;
        const most = Math.max(2, Math.floor(((i === last ? 80 : apart) - 8) / 6.7));
        root.append(svg("line", { x1: x, x2: x, y1: top - 4, y2: bottom + 4, class: "axis" }));
        root.append(svg("text", { x: clamp(x, half, Math.max(half, width - half)), y: 12 + 16 * (i % rows), "text-anchor": "middle", class: "mark halo" }, axis.label));
        let taken = Infinity;
        for (const [place, label] of axis.ticks) {
          const y = top + (1 - place) * (bottom - top);
          if (taken - y < 14) continue;
          taken = y;
          root.append(svg("text", { x: x + 5, y: y + 4, class: "halo" }, shortened(label, most), svg("title", {}, label)));
        }
      });
      this.plot.replaceChildren(root);
      this.svg = root;
    }

    places(one) { return one.places.map((place, i) => [this.left + i * this.apart, this.top + (1 - place) * (this.bottom - this.top)]); }

    path(one) { return `M${this.places(one).map((at) => at.map((value) => value.toFixed(1))).join("L")}`; }

    point(event) {
      const [x, y] = this.at(event);
      let best = null, distance = 16;
      for (const one of this.visible()) {
        const places = this.places(one);
        for (let i = 1; i < places.length; i++) {
          const [[a, b], [c, d]] = [places[i - 1], places[i]];
          const part = clamp(((x - a) * (c - a) + (y - b) * (d - b)) / ((c - a) ** 2 + (d - b) ** 2), 0, 1);
          const far = Math.hypot(a + part * (c - a) - x, b + part * (d - b) - y);
          if (far < distance) { distance = far; best = one; }
        }
      }
      if (best) this.show(best, x, y);
      else this.clear();
    }

    show(one, x, y) {
      this.chosen = one;
      const line = svg("path", { d: this.path(one), class: `line strand s s${one.colour} d${one.dash}` });
      this.over.replaceChildren(svg("path", { d: this.path(one), class: "under-line" }), line, ...this.places(one).map((at) => svg("path", { d: MARKERS[0](4), transform: `translate(${at})`, class: `dot s s${one.colour}` })));
      this.target = one.link || null;
      this.plot.style.cursor = this.target ? "pointer" : "";
      const rows = this.spec.axes.map((axis, i) => html("div", {}, html("i", {}), html("span", {}, axis.label), html("em", {}, one.texts[i])));
      const opens = this.target ? [html("span", { class: "quiet" }, `click opens its ${this.target.endsWith("/") ? "folder" : "report"}`)] : [];
      this.showTip(x, y, [html("b", {}, one.label), ...rows, ...opens]);
    }

    /** The arrow keys go from line to line, in their order; Enter opens what a click would. */
    key(event) {
      const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
      if (event.key === "Escape") this.leave();
      if (event.key === "Enter" && this.target) location.href = this.target;
      if (!step) return;
      event.preventDefault();
      const all = this.visible();
      if (!all.length) return;
      const i = this.tip.hidden ? (step > 0 ? 0 : all.length - 1) : clamp(all.indexOf(this.chosen) + step, 0, all.length - 1);
      this.show(all[i], ...this.places(all[i]).at(-1));
    }
  }

  // ---- tables

  function sortTable(table, column, direction) {
    const body = table.tBodies[0];
    const value = (row) => row.cells[column]?.dataset.sort;
    const numeric = [...body.rows].every((row) => value(row) === undefined || (value(row) !== "" && !Number.isNaN(Number(value(row)))));
    const compare = numeric ? (a, b) => Number(a) - Number(b) : (a, b) => a.localeCompare(b, "en", { numeric: true });
    const rows = [...body.rows].sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
      return direction * compare(x, y);
    });
    body.append(...rows);
    for (const [i, head] of [...table.tHead.rows[0].cells].entries()) {
      if (i === column) head.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    }
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    for (const [i, head] of [...table.tHead.rows[0].cells].entries()) {
      head.querySelector("button").addEventListener("click", () => sortTable(table, i, head.getAttribute("aria-sort") === "ascending" ? -1 : 1));
    }
  }
  for (const field of document.querySelectorAll("input.search")) {
    const rows = [...field.parentElement.querySelector("tbody").rows];
    field.addEventListener("input", () => {
      const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const row of rows) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
    });
  }
  for (const button of document.querySelectorAll("button.copy")) {
    button.addEventListener("click", () => {
      const code = button.parentElement.querySelector("code");
      const range = document.createRange();
      range.selectNodeContents(code);
      const selection = getSelection();
      selection.removeAllRanges();
      selection.addRange(range);
      const done = document.execCommand("copy"); // works from disk, where the clipboard API may not
      selection.removeAllRanges();
      button.textContent = done ? "Copied" : "Press Ctrl+C";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
  }

  // ---- start

  for (const figure of document.querySelectorAll("figure.chart")) {
    const kind = JSON.parse(figure.querySelector('script[type="application/json"]').textContent).kind;
    charts.push(new ({ heat: HeatMap, parallel: Parallel }[kind] || XyChart)(figure));
  }
  const seen = new ResizeObserver((entries) => {
    for (const entry of entries) {
      const chart = charts.find((one) => one.plot === entry.target);
      if (chart && Math.abs(chart.plot.clientWidth - (chart.drawnAt ?? -9)) > 1) {
        chart.drawnAt = chart.plot.clientWidth;
        chart.draw();
      }
    }
  });
  for (const chart of charts) {
    chart.drawnAt = chart.plot.clientWidth;
    chart.draw();
    seen.observe(chart.plot);
  }
  // Paper is narrower than a window, and no script runs once it is laid out: what was drawn for the
  // window would be shrunk, its words with it. So charts are drawn anew for a page of about 170 mm.
  const PAPER = 640, folded = [];
  addEventListener("beforeprint", () => {
    for (const part of document.querySelectorAll("details:not([open])")) { part.open = true; folded.push(part); }
    for (const chart of charts) {
      const several = chart.figure.parentElement.classList.contains("grid");
      chart.draw(!several ? PAPER : chart.spec.compact ? (PAPER - 36) / 3 : (PAPER - 24) / 2, 0.7);
    }
  });
  addEventListener("afterprint", () => {
    for (const part of folded.splice(0)) part.open = false;
    for (const chart of charts) chart.draw();
  });
})();
