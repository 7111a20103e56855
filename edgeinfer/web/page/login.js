// Trades the token for a cookie that only this node can read.
const form = document.getElementById("form");
const wrong = document.getElementById("wrong");

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  wrong.textContent = "";
  try {
    const answer = await fetch("/login", { method: "POST", body: document.getElementById("token").value });
    if (answer.ok) {
      location.assign("/");
      return;
    }
    wrong.textContent = (await answer.json()).error;
  } catch {
    wrong.textContent = "No answer from the node.";
  }
});
