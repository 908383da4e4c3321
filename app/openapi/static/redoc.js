// ReDoc for the public part of /openapi.json.
"use strict";

// Removes the logo in ReDoc's footer, which would be loaded from another origin.
const setAttribute = HTMLImageElement.prototype.setAttribute;
HTMLImageElement.prototype.setAttribute = function (name, value) {
  if (name === "src" && new URL(value, location).origin !== location.origin) return;
  setAttribute.call(this, name, value);
};
Object.defineProperty(HTMLImageElement.prototype, "src", {
  set(value) {
    this.setAttribute("src", value);
  },
});

const text = { fontFamily: "system-ui, sans-serif" };
Redoc.init(
  "/openapi.json",
  {
    scrollYOffset: "header.flows",
    hideDownloadButton: true,
    pathInMiddlePanel: true,
    theme: {
      colors: { primary: { main: "#0b6e6e" } },
      typography: { ...text, headings: text, code: { wrap: true } },
    },
  },
  document.getElementById("redoc"),
);
