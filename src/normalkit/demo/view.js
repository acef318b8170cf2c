// <normalkit-view data-photo data-normals>: the normals, the key to their colours, and the photo in a light that moves.
// Directions are in OPENCV axes: x right, y down, z away from the camera.
(() => {
  const DISPLAY_LEVELS = 16384; // Fine enough that each of the 256 values has its own, also in the dark.
  const toLight = Float32Array.from({ length: 256 }, (_, i) => {
    const v = i / 255;
    return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; // The sRGB curve.
  });
  const toDisplay = Uint8ClampedArray.from({ length: DISPLAY_LEVELS + 1 }, (_, i) => {
    const v = i / DISPLAY_LEVELS;
    return 255 * (v <= 0.0031308 ? 12.92 * v : 1.055 * v ** (1 / 2.4) - 0.055);
  });
  const WHITE = toLight[200]; // A surface of plaster.
  const RIM = 0.995; // The light stays in front of the picture.

  // The light is where it was when the next photo comes.
  const settings = { light: [-0.5, -0.6], ambient: 0.2, strength: 1.2, white: false };

  const within = (x, y) => {
    const r = Math.hypot(x, y);
    return r > RIM ? [(x / r) * RIM, (y / r) * RIM] : [x, y];
  };
  const direction = () => {
    const [x, y] = settings.light;
    return [x, y, -Math.sqrt(Math.max(0, 1 - x * x - y * y))];
  };

  const pixelsOf = async (address) => {
    const image = new Image();
    image.src = address;
    await image.decode();
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    return context.getImageData(0, 0, canvas.width, canvas.height);
  };

  const unitNormals = (pixels) => {
    const normals = new Float32Array((pixels.data.length / 4) * 3);
    for (let i = 0, j = 0; j < normals.length; i += 4, j += 3) {
      const [r, g, b] = [pixels.data[i], pixels.data[i + 1], pixels.data[i + 2]];
      if (r + g + b === 0) continue; // No normal.
      const [x, y, z] = [r / 127.5 - 1, g / 127.5 - 1, b / 127.5 - 1];
      const length = Math.hypot(x, y, z) || 1;
      normals[j] = x / length;
      normals[j + 1] = y / length;
      normals[j + 2] = z / length;
    }
    return normals;
  };

  // Each pixel times ambient + strength max(0, n . l), in linear light: what normalkit.visualize.relight does.
  const relight = (photo, normals, target) => {
    const [x, y, z] = direction();
    const from = photo.data;
    const to = new Uint32Array(target.data.buffer);
    const ambient = settings.ambient * DISPLAY_LEVELS;
    const strength = settings.strength * DISPLAY_LEVELS;
    const white = settings.white ? WHITE : 0;
    const most = DISPLAY_LEVELS;
    for (let pixel = 0, i = 0, j = 0; pixel < to.length; pixel++, i += 4, j += 3) {
      const facing = normals[j] * x + normals[j + 1] * y + normals[j + 2] * z;
      const gain = facing > 0 ? ambient + strength * facing : ambient;
      const r = (white || toLight[from[i]]) * gain + 0.5;
      const g = (white || toLight[from[i + 1]]) * gain + 0.5;
      const b = (white || toLight[from[i + 2]]) * gain + 0.5;
      to[pixel] = // Opaque; the bytes are red, green, blue, alpha on every machine that browsers run on.
        0xff000000 |
        (toDisplay[b < most ? b | 0 : most] << 16) |
        (toDisplay[g < most ? g | 0 : most] << 8) |
        toDisplay[r < most ? r | 0 : most];
    }
  };

  // A white ball in the same light.
  const drawBall = (canvas, [lx, ly, lz]) => {
    const context = canvas.getContext("2d");
    const size = canvas.width;
    const ball = context.createImageData(size, size);
    const pixels = new Uint32Array(ball.data.buffer);
    for (let row = 0, i = 0; row < size; row++) {
      const y = (2 * row + 1) / size - 1;
      for (let column = 0; column < size; column++, i++) {
        const x = (2 * column + 1) / size - 1;
        const front = 1 - x * x - y * y;
        if (front < 0) continue;
        const facing = x * lx + y * ly - Math.sqrt(front) * lz;
        const light = WHITE * DISPLAY_LEVELS * (facing > 0 ? 0.12 + facing : 0.12);
        const shade = toDisplay[light < DISPLAY_LEVELS ? light | 0 : DISPLAY_LEVELS];
        pixels[i] = 0xff000000 | (shade << 16) | (shade << 8) | shade;
      }
    }
    context.putImageData(ball, 0, 0);
  };

  const words = ([x, y, z]) => {
    const parts = [];
    if (y < -0.35) parts.push("up");
    if (y > 0.35) parts.push("down");
    if (x < -0.35) parts.push("left");
    if (x > 0.35) parts.push("right");
    if (z < -0.5) parts.push("towards you");
    return parts.join(", ");
  };

  const TOOLS = `
    <div class="nk-tools">
      <div class="nk-tool">
        <div class="nk-dial nk-key"><img alt="The colours of a ball: up is purple, down is green, left is cyan, right is pink">
          <b class="nk-up">up</b><b class="nk-down">down</b><b class="nk-left">left</b><b class="nk-right">right</b>
          <b class="nk-at">at you</b><i class="nk-dot" hidden></i></div>
        <div class="nk-words"><strong>Colour key</strong>A ball, each point in the colour of the direction that it faces.</div>
      </div>
      <div class="nk-tool">
        <div class="nk-dial nk-light" tabindex="0" role="slider" aria-label="Direction of the light; use the arrow keys"
          aria-valuetext=""><canvas width="168" height="168"></canvas><i class="nk-sun"></i></div>
        <div class="nk-sliders">
          <label>Lamp<input type="range" name="strength" min="0" max="2" step="0.01"></label>
          <label>Ambient<input type="range" name="ambient" min="0" max="1" step="0.01"></label>
          <label>All white<input type="checkbox" name="white"></label>
        </div>
      </div>
    </div>`;
  const PANELS = `
    <div class="nk-panels">
      <figure class="nk-panel"><figcaption>Normals<span class="nk-readout"></span></figcaption>
        <div class="nk-stage"><canvas class="nk-normals"></canvas></div></figure>
      <figure class="nk-panel"><figcaption>Relit<span>drag the light</span></figcaption>
        <div class="nk-stage"><canvas class="nk-relit"></canvas><i class="nk-sun"></i></div></figure>
    </div><p class="nk-note"></p>`;
  const EMPTY = `
    <div class="nk-panels">
      <figure class="nk-panel"><figcaption>Normals</figcaption><div class="nk-stage nk-empty">
        <div>Which way each surface faces, as a colour</div></div></figure>
      <figure class="nk-panel"><figcaption>Relit</figcaption><div class="nk-stage nk-empty">
        <div>The photo, in a light that you move</div></div></figure>
    </div>`;

  class NormalkitView extends HTMLElement {
    static observedAttributes = ["data-photo", "data-normals"];

    connectedCallback() {
      // In a shadow, since Gradio makes the children of an element those that its server sent.
      if (!this.shadowRoot) this.attachShadow({ mode: "open" });
      this.render();
    }

    // Gradio changes an element of the same name attribute by attribute.
    attributeChangedCallback() {
      if (this.shadowRoot) queueMicrotask(() => this.render());
    }

    render() {
      const { photo, normals } = this.dataset;
      if (this.shown === `${photo} ${normals}`) return;
      this.shown = `${photo} ${normals}`;
      this.photo = null;
      this.shadowRoot.innerHTML = `<style>${window.normalkit.style}</style>` + (photo ? PANELS : EMPTY) + TOOLS;
      this.find(".nk-key img").src = window.normalkit.key;
      this.listen();
      this.drawLight();
      if (photo) this.load(photo, normals);
    }

    find(selector) {
      return this.shadowRoot.querySelector(selector);
    }

    all(selector) {
      return this.shadowRoot.querySelectorAll(selector);
    }

    async load(photo, normals) {
      const shown = this.shown;
      const [photoPixels, normalPixels] = await Promise.all([pixelsOf(photo), pixelsOf(normals)]);
      if (shown !== this.shown) return; // Another photo came meanwhile.
      const { width, height } = photoPixels;
      this.photo = photoPixels;
      this.normals = unitNormals(normalPixels);
      this.target = new ImageData(width, height);
      for (const canvas of this.all(".nk-stage canvas")) {
        [canvas.width, canvas.height] = [width, height];
      }
      this.find(".nk-normals").getContext("2d").putImageData(normalPixels, 0, 0);
      const { name, size, note } = this.dataset;
      this.find(".nk-note").textContent = `${name}, ${size} pixels. ${note}`;
      this.draw();
      this.find(".nk-panels").classList.add("nk-ready");
    }

    listen() {
      for (const input of this.all("input")) {
        if (input.type === "checkbox") input.checked = settings[input.name];
        else input.value = settings[input.name];
        input.addEventListener("input", () => {
          settings[input.name] = input.type === "checkbox" ? input.checked : Number(input.value);
          this.schedule();
        });
      }
      const dial = this.find(".nk-light");
      this.drag(dial);
      dial.addEventListener("keydown", (event) => {
        const step = { ArrowLeft: [-0.05, 0], ArrowRight: [0.05, 0], ArrowUp: [0, -0.05], ArrowDown: [0, 0.05] }[event.key];
        if (!step) return;
        event.preventDefault();
        this.moveLight(settings.light[0] + step[0], settings.light[1] + step[1]);
      });
      const relit = this.find(".nk-relit");
      if (!relit) return;
      this.drag(relit);
      const shown = this.find(".nk-normals");
      shown.addEventListener("pointermove", (event) => this.readOut(event));
      shown.addEventListener("pointerleave", () => this.readOut(null));
    }

    // Where the pointer is in an element: -1 to 1 each way.
    drag(element) {
      const move = (event) => {
        const box = element.getBoundingClientRect();
        this.moveLight(((event.clientX - box.left) / box.width) * 2 - 1, ((event.clientY - box.top) / box.height) * 2 - 1);
      };
      element.addEventListener("pointerdown", (event) => {
        element.setPointerCapture(event.pointerId);
        move(event);
      });
      element.addEventListener("pointermove", (event) => {
        if (element.hasPointerCapture(event.pointerId)) move(event);
      });
    }

    moveLight(x, y) {
      settings.light = within(x, y);
      this.schedule();
    }

    // However many events come, one picture a frame.
    schedule() {
      if (this.scheduled) return;
      this.scheduled = true;
      requestAnimationFrame(() => {
        this.scheduled = false;
        this.draw();
      });
    }

    draw() {
      this.drawLight();
      if (!this.photo) return;
      relight(this.photo, this.normals, this.target);
      this.find(".nk-relit").getContext("2d").putImageData(this.target, 0, 0);
    }

    drawLight() {
      const light = direction();
      drawBall(this.find(".nk-light canvas"), light);
      for (const sun of this.all(".nk-sun")) {
        sun.style.left = `${50 + 50 * light[0]}%`;
        sun.style.top = `${50 + 50 * light[1]}%`;
      }
      this.find(".nk-light").setAttribute("aria-valuetext", words(light));
      this.light = light;
    }

    readOut(event) {
      const dot = this.find(".nk-key .nk-dot");
      const text = this.find(".nk-readout");
      dot.hidden = true;
      text.textContent = "";
      if (!event || !this.normals) return;
      const canvas = event.target;
      const box = canvas.getBoundingClientRect();
      const x = Math.min(canvas.width - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * canvas.width)));
      const y = Math.min(canvas.height - 1, Math.max(0, Math.floor(((event.clientY - box.top) / box.height) * canvas.height)));
      const normal = this.normals.subarray(3 * (y * canvas.width + x), 3 * (y * canvas.width + x) + 3);
      text.textContent = `${words(normal)} (${Array.from(normal, (v) => (Math.abs(v) < 0.005 ? 0 : v).toFixed(2)).join(", ")})`;
      dot.hidden = false;
      dot.style.left = `${50 + 50 * normal[0]}%`;
      dot.style.top = `${50 + 50 * normal[1]}%`;
    }
  }

  if (!customElements.get("normalkit-view")) customElements.define("normalkit-view", NormalkitView);
})();
