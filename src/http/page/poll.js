// Polling: one request at a time, none while the page is hidden, with backoff while it fails.

const MAX_MS = 60000;

export class Poll {
  /** `load(signal)` returns the data; `changed()` is called after each attempt. */
  constructor(load, every, changed, { backoff = true } = {}) {
    Object.assign(this, { load, every, changed, backoff });
    this.data = null;
    this.at = null;
    this.error = null;
    this.failures = 0;
    this.active = false;
    this.due = 0;
  }

  start() {
    this.active = true;
    this.now();
    return this;
  }

  stop() {
    this.active = false;
    clearTimeout(this.timer);
    this.flight?.abort();
    this.flight = null;
  }

  /** Requests at once; if a request is in flight, once more after it. */
  now() {
    if (this.flight) this.repeat = true;
    else this.run();
  }

  /** The page is visible again. */
  wake() {
    if (this.active && !this.flight && Date.now() >= this.due) this.run();
  }

  async run() {
    clearTimeout(this.timer);
    const flight = new AbortController();
    this.flight = flight;
    try {
      const data = await this.load(flight.signal);
      if (flight.signal.aborted) return;
      Object.assign(this, { data, at: Date.now(), error: null, failures: 0 });
    } catch (error) {
      if (flight.signal.aborted) return;
      this.error = error;
      this.failures += 1;
      if (!error.code) console.error(error);
    }
    this.flight = null;
    this.schedule();
    this.changed();
  }

  schedule() {
    if (!this.active) return;
    const factor = this.backoff ? 2 ** Math.min(Math.max(this.failures - 1, 0), 3) : 1;
    let wait = Math.max(this.every, Math.min(this.every * factor, MAX_MS));
    if (this.error?.retryAfter) wait = Math.max(wait, this.error.retryAfter * 1000);
    if (this.repeat) wait = 0;
    this.repeat = false;
    this.due = Date.now() + wait;
    this.timer = setTimeout(() => document.hidden || this.run(), wait);
  }
}
