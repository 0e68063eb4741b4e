"use strict";
// The scripts of a report: a case is one that calls `backsplit.receive`, because a page opened from a disk may not fetch.
const casefiles = (() => {
  const LIBRARY = "assets/niivue.umd.js";
  const MOST_KEPT = 4;
  const waiting = new Map();  // what to do with a case or whole volume once its script has run
  const cache = new Map();  // promises of cases and whole volumes, the oldest first

  function receive(content) {
    const key = "start" in content && content.findings ? content.id : `${content.id}.whole`;
    waiting.get(key)?.(content);
  }

  function script(address) {
    return new Promise((resolve, reject) => {
      const element = document.createElement("script");
      element.src = address;
      element.onerror = () => reject(new Error(`${address} cannot be read; was it moved away from the page?`));
      document.head.append(element);
      element.onload = () => { element.remove(); resolve(); };
    });
  }

  // Fetched once, when the pointer or the focus is on a case.
  let fetched = null;
  function library() {
    fetched ??= globalThis.niivue ? Promise.resolve() : script(LIBRARY);
    return fetched;
  }

  function load(key, address) {
    if (!cache.has(key)) {
      const content = read(key, address);
      cache.set(key, content);
      content.catch(() => cache.delete(key));
      if (cache.size > MOST_KEPT) cache.delete(cache.keys().next().value);
    }
    return cache.get(key);
  }

  async function read(key, address) {
    const inside = document.getElementById(`data-${key}`);
    if (inside) return JSON.parse(inside.textContent);
    let content = null;
    waiting.set(key, (received) => { content = received; });
    await script(address);
    waiting.delete(key);
    if (!content) throw new Error(`${address} is not of this report`);
    return content;
  }

  return { receive, library, load };
})();
