// Runs on the audio thread: collects the microphone's first channel and hands it over in pieces of about 40 ms.
class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.piece = new Float32Array(Math.round(sampleRate * 0.04));
    this.filled = 0;
    this.port.onmessage = () => this.hand();
  }

  hand() {
    if (this.filled) this.port.postMessage(this.piece.slice(0, this.filled));
    this.filled = 0;
  }

  process([[block]]) {
    if (!block) return true;
    let taken = 0;
    while (taken < block.length) {
      const part = block.subarray(taken, taken + this.piece.length - this.filled);
      this.piece.set(part, this.filled);
      this.filled += part.length;
      taken += part.length;
      if (this.filled === this.piece.length) this.hand();
    }
    return true;
  }
}

registerProcessor("capture", Capture);
