// What the page needs beside Gradio's own script: a tab finds its conversation again, controls have names, copies are what was written.
{
  const tab = (sessionStorage.chatTab ??= Math.random().toString(36).slice(2)); // no secret: the session is one, in a cookie
  const send = window.fetch;
  window.fetch = async (resource, options = {}) => {
    if (!String(resource).includes("/queue/join")) return send(resource, options);
    const headers = new Headers(options.headers);
    headers.set("x-chat-tab", tab);
    const response = await send(resource, { ...options, headers });
    if (response.status === 401) location.reload(); // the session has ended: log in again
    if (response.ok) return response;
    const told = await response.json().catch(() => null);
    return Response.json({ error: told?.error?.message ?? "The chat cannot be reached." }, { status: response.status });
  };

  const names = { "#box textarea": "Message", "#chat textarea": "Question" };
  let answering = false;
  new MutationObserver(() => {
    for (const [selector, name] of Object.entries(names))
      for (const element of document.querySelectorAll(`${selector}:not([aria-label])`)) element.ariaLabel = name;
    for (const button of document.querySelectorAll("#box button[aria-label]:not([title])")) button.title = button.ariaLabel;
    for (const code of document.querySelectorAll("#chat pre:not([tabindex])")) code.tabIndex = 0; // to scroll it with keys
    for (const arrow of document.querySelectorAll("#chat [role=button] button")) arrow.inert = true; // a button in a button
    const was = answering;
    answering = document.querySelector(".stop-button") !== null;
    const lost = was && !answering && document.activeElement === document.body; // the button that had the focus is gone
    if (lost && !matchMedia("(pointer: coarse)").matches) document.querySelector("#box textarea")?.focus();
  }).observe(document, { childList: true, subtree: true });

  const written = (shown) => shown.replaceAll("\u2060", "").replace(/\n*<span class="(timing|problem)">.*?<\/span>/gs, "");
  if (navigator.clipboard) {
    const copy = navigator.clipboard.writeText.bind(navigator.clipboard);
    navigator.clipboard.writeText = (text) => copy(written(text));
  }
  document.addEventListener("copy", (event) => {
    const selected = getSelection().toString();
    if (written(selected) === selected) return;
    event.clipboardData.setData("text/plain", written(selected));
    event.preventDefault();
  });
}
