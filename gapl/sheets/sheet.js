// Makes the chosen map stronger or weaker; the style shows one at a time, without any script.
const strength = document.getElementById("strength");
if (strength) {
  const maps = document.querySelector(".maps");
  const fade = () => { maps.style.opacity = strength.querySelector("input").value / 100; };
  strength.hidden = false;
  strength.addEventListener("input", fade);
  fade();
}
