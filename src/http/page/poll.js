// Asking again and again: one request in flight, none while nobody looks, slower while it fails.

const SLOWEST_MS = 60000;

export class Poll {
  /** `load(signal)` gives the data; `changed()` is called after each attempt. */
  constructor(load, every, changed, { patient = true } = {}) {
    Object.assign(this, { load, every, changed, patient });
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

  /** At once, unless a request is on its way; then once more after it. */
  now() {
    if (this.flight) this.again = true;
    else this.run();
  }

  /** The page is looked at again. */
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
    this.plan();
    this.changed();
  }

  plan() {
    if (!this.active) return;
    const slower = this.patient
      ? Math.min(2 ** Math.min(this.failures, 4) / 2, SLOWEST_MS / this.every)
      : 1;
    let wait = this.failures > 0 ? Math.max(this.every * slower, this.every) : this.every;
    if (this.error?.retryAfter) wait = Math.max(wait, this.error.retryAfter * 1000);
    if (this.again) wait = 0;
    this.again = false;
    this.due = Date.now() + wait;
    this.timer = setTimeout(() => document.hidden || this.run(), wait);
  }
}
