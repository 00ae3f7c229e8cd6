// Sound in the browser: decoding, cutting, WAV, the spectrogram, the microphone. A waveform is a Float32Array in [-1, 1].

export const SAMPLE_RATE = 16000; // Hz; what the models hear, and enough to draw
const N_FFT = 512; // samples, 32 ms
const N_MELS = 96; // rows of the picture
const DYNAMIC_RANGE_DB = 70;

/** Channels of a sound file at SAMPLE_RATE; null where this browser cannot decode it. */
export async function decode(file) {
  try {
    const context = new OfflineAudioContext(1, 1, SAMPLE_RATE);
    const buffer = await context.decodeAudioData(await file.arrayBuffer());
    return Array.from({ length: buffer.numberOfChannels }, (_, channel) => buffer.getChannelData(channel));
  } catch {
    return null;
  }
}

/** The mean of the channels. */
export function mix(channels) {
  if (channels.length === 1) return channels[0];
  return channels[0].map((_, index) => channels.reduce((sum, channel) => sum + channel[index], 0) / channels.length);
}

export function cut(waveform, start_s, end_s, sampleRate = SAMPLE_RATE) {
  return waveform.subarray(Math.round(start_s * sampleRate), Math.round(end_s * sampleRate));
}

/** One waveform after the other, with silence between them. */
export function join(waveforms, gap_s, sampleRate = SAMPLE_RATE) {
  const gap = Math.round(gap_s * sampleRate);
  const joined = new Float32Array(waveforms.reduce((sum, waveform) => sum + waveform.length + gap, 0));
  let start = 0;
  for (const waveform of waveforms) {
    joined.set(waveform, start);
    start += waveform.length + gap;
  }
  return joined;
}

/** 16-bit samples, as WAV files and the live connection carry them. */
export function toPcm(waveform) {
  return Int16Array.from(waveform, (sample) => Math.max(-32768, Math.min(32767, Math.round(sample * 32767))));
}

/** A mono WAV file of 16-bit samples, or of a waveform. */
export function toWav(samples, sampleRate, name) {
  const pcm = samples instanceof Int16Array ? samples : toPcm(samples);
  const header = new DataView(new ArrayBuffer(44));
  const text = (offset, letters) => [...letters].forEach((letter, i) => header.setUint8(offset + i, letter.charCodeAt(0)));
  text(0, "RIFF");
  header.setUint32(4, 36 + pcm.byteLength, true);
  text(8, "WAVEfmt ");
  header.setUint32(16, 16, true); // length of the format block
  header.setUint16(20, 1, true); // PCM
  header.setUint16(22, 1, true); // channels
  header.setUint32(24, sampleRate, true);
  header.setUint32(28, 2 * sampleRate, true); // bytes a second
  header.setUint16(32, 2, true); // bytes a frame
  header.setUint16(34, 16, true); // bits a sample
  text(36, "data");
  header.setUint32(40, pcm.byteLength, true);
  return new File([header, pcm], name, { type: "audio/wav" });
}

// Spectrogram ---------------------------------------------------------------------------------------------------

export const toMel = (hz) => 2595 * Math.log10(1 + hz / 700);
const fromMel = (mel) => 700 * (10 ** (mel / 2595) - 1);

/** Loudness of (N_MELS rows, nColumns) in [0, 1], row by row from the highest band, up to half the sample rate. */
export function spectrogram(waveform, nColumns, sampleRate = SAMPLE_RATE) {
  const bands = melBands(sampleRate);
  const levels = new Float32Array(N_MELS * nColumns);
  const real = new Float32Array(N_FFT);
  const imaginary = new Float32Array(N_FFT);
  let loudest = -Infinity;
  for (let column = 0; column < nColumns; column++) {
    const centre = Math.round(((column + 0.5) / nColumns) * waveform.length);
    for (let i = 0; i < N_FFT; i++) real[i] = HANN[i] * (waveform[centre - N_FFT / 2 + i] ?? 0);
    imaginary.fill(0);
    fft(real, imaginary);
    bands.forEach(([from, to], row) => {
      let power = 0;
      for (let bin = from; bin <= to; bin++) power = Math.max(power, real[bin] ** 2 + imaginary[bin] ** 2);
      const level = 10 * Math.log10(power + 1e-12);
      levels[(N_MELS - 1 - row) * nColumns + column] = level;
      loudest = Math.max(loudest, level);
    });
  }
  for (let i = 0; i < levels.length; i++) levels[i] = Math.max(0, 1 + (levels[i] - loudest) / DYNAMIC_RANGE_DB);
  return { levels, nRows: N_MELS, nColumns };
}

/** First and last bin of each row. */
function melBands(sampleRate) {
  const top = toMel(sampleRate / 2);
  const bin = (row) => (fromMel((row / N_MELS) * top) / sampleRate) * N_FFT;
  return Array.from({ length: N_MELS }, (_, row) => {
    const from = Math.round(bin(row));
    return [from, Math.max(from, Math.min(N_FFT / 2, Math.round(bin(row + 1))))];
  });
}

const HANN = Float32Array.from({ length: N_FFT }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / N_FFT));

/** In place, for lengths that are powers of two (Cooley and Tukey 1965). */
export function fft(real, imaginary) {
  const n = real.length;
  for (let i = 1, j = 0; i < n; i++) {
    let bit = n >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) {
      [real[i], real[j]] = [real[j], real[i]];
      [imaginary[i], imaginary[j]] = [imaginary[j], imaginary[i]];
    }
  }
  for (let size = 2; size <= n; size *= 2) {
    const half = size / 2;
    for (let k = 0; k < half; k++) {
      const angle = (-2 * Math.PI * k) / size;
      const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
      for (let even = k; even < n; even += size) {
        const odd = even + half;
        const r = real[odd] * cos - imaginary[odd] * sin;
        const i = real[odd] * sin + imaginary[odd] * cos;
        real[odd] = real[even] - r;
        imaginary[odd] = imaginary[even] - i;
        real[even] += r;
        imaginary[even] += i;
      }
    }
  }
}

// Microphone ----------------------------------------------------------------------------------------------------

const MICROPHONE_FAULTS = {
  NotAllowedError: "The browser keeps the microphone from this page. Allow it in the address bar, then try again.",
  NotFoundError: "There is no microphone here. Connect one and try again, or choose a file instead.",
  NotReadableError: "The microphone is taken by another program. Close that program, then try again.",
  OverconstrainedError: "That microphone is gone. Choose another one.",
};

/** The microphone, unaltered: no gain control and no noise suppression, which change how a voice sounds. */
export class Microphone {
  /** `onPiece` gets about 40 ms at a time, at `sampleRate`. */
  static async open({ deviceId, onPiece, onLost }) {
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new Error(
        "Browsers give the microphone only to pages of this computer or over https. Open this page as http://localhost or over https, or choose a file instead.",
      );
    }
    const wanted = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({
        audio: deviceId ? { ...wanted, deviceId: { exact: deviceId } } : wanted,
      });
    } catch (error) {
      throw new Error(MICROPHONE_FAULTS[error.name] ?? `The microphone did not start (${error.message}). Choose a file instead.`);
    }
    const context = new AudioContext();
    try {
      await context.audioWorklet.addModule(new URL("capture.js", import.meta.url));
      await context.resume();
    } catch (error) {
      stream.getTracks().forEach((track) => track.stop());
      context.close();
      throw new Error(`The microphone did not start (${error.message}). Load the page again, or choose a file instead.`);
    }
    return new Microphone(stream, context, onPiece, onLost);
  }

  constructor(stream, context, onPiece, onLost) {
    this.stream = stream;
    this.context = context;
    this.sampleRate = context.sampleRate;
    this.pieces = [];
    this.node = new AudioWorkletNode(context, "capture", { numberOfOutputs: 0 });
    this.node.port.onmessage = ({ data }) => onPiece(data);
    stream.getTracks().forEach((track) => track.addEventListener("ended", onLost));
    context.createMediaStreamSource(stream).connect(this.node);
  }

  /** Name and id of each microphone; browsers tell names only once one has been allowed. */
  static async list() {
    const devices = await navigator.mediaDevices.enumerateDevices();
    return devices.filter(({ kind, deviceId }) => kind === "audioinput" && deviceId);
  }

  async close() {
    this.node.port.postMessage("the rest");
    await new Promise((resolve) => setTimeout(resolve, 60));
    this.node.port.onmessage = null;
    this.stream.getTracks().forEach((track) => track.stop());
    await this.context.close();
  }
}
