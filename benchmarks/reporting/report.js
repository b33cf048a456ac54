// Clips of a page start together and stop together; who asked their system for less motion starts them by hand.
(() => {
  const clips = [...document.querySelectorAll("video")];
  const button = document.getElementById("play");
  if (!button || !clips.length) return;
  let playing = !matchMedia("(prefers-reduced-motion: reduce)").matches;
  const show = () => {
    for (const clip of clips) {
      clip.currentTime = 0;
      if (playing) clip.play().catch(() => {});
      else clip.pause();
    }
    button.textContent = playing ? "Pause" : "Play";
    button.setAttribute("aria-pressed", String(playing));
  };
  button.hidden = false;
  button.addEventListener("click", () => { playing = !playing; show(); });
  addEventListener("load", show);
})();
