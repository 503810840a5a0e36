"use strict";
// An A/B/X test. What is what stays in variables of this function: the page shows it when the series is over.
(() => {
  const element = (id) => document.getElementById(id);
  const bytesOf = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  // The same in spectrovae.evaluation.listen; it keeps names out of sight, and is no secret.
  const scramble = (bytes) => bytes.map((byte, place) => byte ^ ((31 * place + 7) & 255));
  const key = JSON.parse(new TextDecoder().decode(scramble(bytesOf(element("key").textContent))));
  const sounds = JSON.parse(element("sounds").textContent);
  const { systems, clips, places, id } = key;

  // Random numbers that no reader of the page can know beforehand.
  const below = (count) => crypto.getRandomValues(new Uint32Array(1))[0] % count;
  const shuffled = (items) => {
    const result = [...items];
    for (let last = result.length - 1; last > 0; last -= 1) {
      const other = below(last + 1);
      [result[last], result[other]] = [result[other], result[last]];
    }
    return result;
  };

  // What is kept between visits; and with the tab, as Chromium now and then gives a page from disk an empty store.
  const name = `spectrovae-abx-${id}`;
  let memory = null;
  const keep = (state) => {
    const bytes = state && scramble(new TextEncoder().encode(JSON.stringify(state)));
    const text = bytes && btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
    history.replaceState(text, "");
    try {
      if (text === null) localStorage.removeItem(name);
      else localStorage.setItem(name, text);
    } catch {
      element("memory").hidden = false;
    }
    memory = state;
  };
  const stored = () => {
    try {
      return localStorage.getItem(name);
    } catch {
      return null;
    }
  };
  const kept = () => {
    try {
      const text = stored() ?? history.state;
      const state = text && JSON.parse(new TextDecoder().decode(scramble(bytesOf(text))));
      return state && Array.isArray(state.trials) && Array.isArray(state.answers) ? state : null;
    } catch {
      return null;
    }
  };

  const pairs = [];
  for (let first = 0; first < systems.length; first += 1) {
    for (let second = first + 1; second < systems.length; second += 1) pairs.push([first, second]);
  }
  const pairName = ([first, second]) => `${systems[first]} / ${systems[second]}`;

  // Each pair and each clip as often as any other; sides and X by fair coins, as the binomial test assumes.
  const series = (chosen, count) => {
    const fill = (items) => {
      const result = [];
      while (result.length < count) result.push(...shuffled(items));
      return result.slice(0, count);
    };
    const clipNumbers = fill(clips.map((_, number) => number));
    return fill(chosen).map((pair, number) => {
      const [a, b] = below(2) ? pair : [pair[1], pair[0]];
      return { clip: clipNumbers[number], a, b, x: below(2) ? "a" : "b" };
    });
  };

  const guessing = (right, count) => {
    // P(at least right of count fair coins fall right)
    let choose = 0; // log of count over k
    let sum = 0;
    for (let k = 0; k <= count; k += 1) {
      if (k >= right) sum += Math.exp(choose - count * Math.LN2);
      choose += Math.log(count - k) - Math.log(k + 1);
    }
    return Math.min(1, sum);
  };
  const probability = (p) => (p < 0.001 ? "below 0.001" : p.toFixed(3));

  // Sounds
  const player = element("abx").appendChild(new Audio());
  player.id = "sound";
  const heard = new Set();
  let address = null;
  const stop = () => {
    player.pause();
    for (const button of document.querySelectorAll("#abx .playing")) button.classList.remove("playing");
  };
  const play = (which) => {
    const trial = memory.trials[memory.answers.length];
    const system = trial[which === "x" ? trial.x : which];
    const old = address;
    stop();
    address = URL.createObjectURL(new Blob([bytesOf(sounds[places[trial.clip][system]])], { type: "audio/wav" }));
    player.src = address;
    if (old) URL.revokeObjectURL(old);
    const button = document.querySelector(`[data-play="${which}"]`);
    button.classList.add("playing", "heard");
    player.play().then(() => {
      heard.add(which);
      if (heard.size === 3) for (const one of document.querySelectorAll("[data-answer]")) one.disabled = false;
    }, (error) => {
      if (error.name !== "AbortError") button.classList.remove("playing", "heard"); // another sound was asked for
    });
  };
  player.addEventListener("ended", stop);

  // What is shown
  const next = () => {
    stop();
    heard.clear();
    for (const button of document.querySelectorAll(".heard")) button.classList.remove("heard");
    for (const button of document.querySelectorAll("[data-answer]")) button.disabled = true;
    show();
  };
  const show = () => {
    const over = memory !== null && memory.finished;
    element("setup").hidden = memory !== null;
    element("trial").hidden = memory === null || over;
    element("result").hidden = !over;
    element("erasing").hidden = memory === null;
    if (memory === null) return;
    if (over) results();
    else {
      const clip = clips[memory.trials[memory.answers.length].clip];
      element("progress").textContent = `Trial ${memory.answers.length + 1} of ${memory.trials.length}, clip ${clip}`;
    }
  };
  const scores = () =>
    pairs
      .map((pair) => {
        const own = memory.answers.filter((answer) => pair.includes(answer.a) && pair.includes(answer.b));
        const right = own.filter((answer) => answer.answer === answer.x).length;
        return { pair: pairName(pair), right, trials: own.length, p: guessing(right, own.length) };
      })
      .filter((score) => score.trials);
  const results = () => {
    const count = memory.answers.length;
    const right = memory.answers.filter((answer) => answer.answer === answer.x).length;
    const p = guessing(right, count);
    element("score").textContent = `${right} of ${count} right, p = ${probability(p)}`;
    const few = memory.trials.length > count ? " The series was ended early: had its score a say in that, p is too small." : "";
    const many = scores().length > 1 ? ` Of ${scores().length} pairs, count one as heard where its p is below ${(0.05 / scores().length).toFixed(3)} (Bonferroni).` : "";
    element("meaning").textContent =
      (p < 0.05
        ? "By guessing one is rarely so right: a difference was heard."
        : "By guessing one is often as right: no difference was shown, which does not show that there is none.") + few + many;
    const body = element("pairs").tBodies[0];
    body.replaceChildren();
    for (const score of scores()) {
      const row = body.insertRow();
      for (const [text, order] of [
        [score.pair, null], [score.right, score.right], [score.trials, score.trials], [probability(score.p), score.p],
      ]) {
        const cell = row.insertCell();
        cell.textContent = text;
        if (order !== null) cell.dataset.order = order;
      }
    }
  };

  // The answers as files
  const answers = () =>
    memory.answers.map((answer, number) => ({
      trial: number + 1,
      clip: clips[answer.clip],
      a: systems[answer.a],
      b: systems[answer.b],
      x: answer.x.toUpperCase(),
      answer: answer.answer.toUpperCase(),
      right: answer.answer === answer.x,
      time: answer.time,
    }));
  const save = (text, kind, ending) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: kind }));
    link.download = `abx-${id}.${ending}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  };
  const quoted = (value) => {
    const text = String(value).replace(/^[=+\-@\t\r]/, "'$&"); // no formula for a spreadsheet
    return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  element("csv").addEventListener("click", () => {
    const rows = answers();
    const lines = [Object.keys(rows[0]), ...rows.map(Object.values)].map((row) => row.map(quoted).join(","));
    save(lines.join("\n") + "\n", "text/csv", "csv");
  });
  element("json").addEventListener("click", () => {
    const right = memory.answers.filter((answer) => answer.answer === answer.x).length;
    const whole = { right, trials: memory.answers.length, planned: memory.trials.length, p: guessing(right, memory.answers.length) };
    const result = { page: id, started: memory.started, score: whole, pairs: scores(), answers: answers() };
    save(JSON.stringify(result, null, 2) + "\n", "application/json", "json");
  });

  // What can be pressed
  const answer = (which) => {
    if (!memory || memory.finished || heard.size < 3) return;
    const state = structuredClone(memory);
    state.answers.push({ ...memory.trials[memory.answers.length], answer: which, time: new Date().toISOString() });
    state.finished = state.answers.length === state.trials.length;
    keep(state);
    next();
  };
  element("setup").addEventListener("submit", (event) => {
    event.preventDefault();
    const value = element("pair").value;
    const trials = series(value === "all" ? pairs : [pairs[Number(value)]], Math.max(1, Math.floor(Number(element("count").value)) || key.trials));
    keep({ trials, answers: [], finished: false, started: new Date().toISOString() });
    next();
    document.querySelector('[data-play="a"]').focus();
  });
  element("finish").addEventListener("click", () => {
    if (!memory.answers.length) return erase();
    keep({ ...memory, finished: true });
    next();
  });
  let sure = null;
  const erase = () => {
    keep(null);
    next();
    element("start").focus();
  };
  element("reset").addEventListener("click", () => {
    const button = element("reset");
    clearTimeout(sure);
    if (button.dataset.sure || !memory.answers.length) {
      delete button.dataset.sure;
      button.textContent = "Erase the answers and start over";
      erase();
      return;
    }
    button.dataset.sure = "yes";
    button.textContent = `Press again to erase ${memory.answers.length} answers`;
    sure = setTimeout(() => {
      delete button.dataset.sure;
      button.textContent = "Erase the answers and start over";
    }, 5000);
  });
  for (const button of document.querySelectorAll("[data-play]")) {
    button.addEventListener("click", () => play(button.dataset.play));
  }
  for (const button of document.querySelectorAll("[data-answer]")) {
    button.addEventListener("click", () => answer(button.dataset.answer));
  }
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    if (element("trial").hidden || event.target.closest("input, select, textarea")) return;
    const pressed = event.key.toLowerCase();
    if ("abx".includes(pressed) && pressed.length === 1) play(pressed);
    if (pressed === "1" || pressed === "2") answer(pressed === "1" ? "a" : "b");
  });

  const select = element("pair");
  const options = pairs.length > 1 ? [["all", "all pairs, shuffled"]] : [];
  for (const [value, text] of [...options, ...pairs.map((pair, number) => [String(number), pairName(pair)])]) {
    select.add(new Option(text, value));
  }
  element("count").value = key.trials;
  memory = kept();
  next();
})();
