// Draws an X-ray and its mask on one canvas.

/** The mask as a picture of one colour, as large as the X-ray is shown: the area, or a line round it. */
function tinted(mask, width, height, colour, outline) {
  const sheet = new OffscreenCanvas(width, height);
  const context = sheet.getContext("2d", { willReadFrequently: true });
  context.drawImage(mask, 0, 0, width, height);
  const pixels = context.getImageData(0, 0, width, height);
  const data = pixels.data;
  const lung = new Uint8Array(width * height);
  for (let i = 0; i < lung.length; i++) lung[i] = data[4 * i] >= 128 ? 1 : 0;
  const reach = Math.max(1, Math.round(Math.max(width, height) / 400));
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  const is = (x, y) => x >= 0 && y >= 0 && x < width && y < height && lung[y * width + x];
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      const inside = lung[i] && is(x - reach, y) && is(x + reach, y) && is(x, y - reach) && is(x, y + reach);
      const shown = lung[i] && !(outline && inside);
      data.set([red, green, blue, shown ? 255 : 0], 4 * i);
    }
  }
  context.putImageData(pixels, 0, 0);
  return sheet;
}

export class Viewer {
  constructor(canvas) {
    this.canvas = canvas;
    this.sheets = new Map();
  }

  /** Take another X-ray and its mask, both ImageBitmap; the mask may be of another size. */
  show(image, mask) {
    this.image = image;
    this.mask = mask;
    this.sheets.clear();
    this.canvas.width = image.width;
    this.canvas.height = image.height;
  }

  /** Draw the X-ray under its mask: opacity from 0 to 1, colour as #rrggbb, the area or its outline. */
  draw(opacity, colour, outline) {
    const { width, height } = this.canvas;
    const key = `${colour} ${outline}`;
    if (!this.sheets.has(key)) this.sheets.set(key, tinted(this.mask, width, height, colour, outline));
    const context = this.canvas.getContext("2d");
    context.globalAlpha = 1;
    context.drawImage(this.image, 0, 0);
    context.globalAlpha = opacity;
    context.drawImage(this.sheets.get(key), 0, 0);
  }
}
