// Text whose contrast to what is below it is less than 4.5, with that contrast, by its first words.
() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const pixel = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [red, green, blue, alpha] = canvas.getImageData(0, 0, 1, 1).data;
    return { rgb: [red, green, blue], alpha: alpha / 255 };
  };
  const over = ({ rgb, alpha }, below) =>
    rgb.map((value, i) => value * alpha + below[i] * (1 - alpha));
  const paper = (element) =>
    element
      ? over(pixel(getComputedStyle(element).backgroundColor), paper(element.parentElement))
      : [255, 255, 255];
  const linear = (value) =>
    value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const luminance = ([red, green, blue]) =>
    0.2126 * linear(red / 255) + 0.7152 * linear(green / 255) + 0.0722 * linear(blue / 255);
  const hasText = (element) =>
    [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim()) &&
    element.checkVisibility({ opacityProperty: true }) &&
    element.getBoundingClientRect().width > 0;

  const found = {};
  for (const element of document.querySelectorAll("body *")) {
    if (!hasText(element) || element.closest(":disabled")) continue;
    const below = paper(element);
    const ink = over(pixel(getComputedStyle(element).color), below);
    const [low, high] = [luminance(ink), luminance(below)].sort((a, b) => a - b);
    const contrast = (high + 0.05) / (low + 0.05);
    if (contrast < 4.5) found[element.innerText.trim().slice(0, 40)] = contrast;
  }
  return found;
}
