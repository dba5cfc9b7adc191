// Finds sections of the reader's language. It works from disk too, and for Chinese, which has no blanks between words.
(() => {
  const field = document.getElementById("find"), found = document.getElementById("found");
  if (!field) return;
  const base = field.dataset.base.replace(/\/?$/, "/"), most = 12;
  let loading;

  const load = () => loading = loading || new Promise((done, failed) => {
    const script = document.createElement("script");
    Object.assign(script, { src: base + "search-index.js", onload: () => done(window.SECTIONS), onerror: failed });
    document.head.append(script);
  });

  const element = (name, text, className) => Object.assign(document.createElement(name), { textContent: text, className });

  const excerpt = (text, word) => {
    const at = Math.max(0, text.toLowerCase().indexOf(word) - 30);
    return (at ? "…" : "") + text.slice(at, at + 90) + "…";
  };

  const search = async () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    const sections = words.length ? await load() : [];
    const rank = one => words.every(word => one.title.toLowerCase().includes(word)) ? 0 : 1;
    const hits = sections.filter(one => one.url.startsWith(field.dataset.folder) &&
      words.every(word => (one.title + " " + one.text).toLowerCase().includes(word))).sort((a, b) => rank(a) - rank(b));
    found.replaceChildren(...hits.slice(0, most).map(one => {
      const link = element("a", one.title, "nav-link"), item = element("li", "", "nav-item");
      link.href = base + one.url;
      link.append(element("small", excerpt(one.text, words[0])));
      item.append(link);
      return item;
    }));
    if (words.length && !hits.length) found.append(element("li", field.dataset.nothing, "nav-link"));
  };

  field.addEventListener("input", search);
})();
