// Says for each proof of a list whether @sigstore/verify accepts it. Reads and writes JSON.
"use strict";
const { createPublicKey } = require("crypto");
const { readFileSync } = require("fs");

const { verifyTLogInclusion } = require("./node_modules/@sigstore/verify/dist/tlog");

function accepts({ log, entry, index, hashes, checkpoint }) {
  const logID = Buffer.from(log.id, "hex");
  const authority = {
    logID,
    baseURL: log.name,
    publicKey: createPublicKey({ key: Buffer.from(log.spki, "base64"), format: "der", type: "spki" }),
    validFor: { start: new Date(0), end: new Date(8640000000000000) },
  };
  const inclusionProof = {
    logIndex: String(index),
    hashes: hashes.map((hash) => Buffer.from(hash, "base64")),
    checkpoint: { envelope: checkpoint },
  };
  const canonicalizedBody = Buffer.from(entry, "base64");
  try {
    verifyTLogInclusion({ logId: { keyId: logID }, inclusionProof, canonicalizedBody }, [authority]);
    return true;
  } catch (error) {
    if (error.name !== "VerificationError") throw error;
    return false;
  }
}

const asked = JSON.parse(readFileSync(0, "utf-8"));
process.stdout.write(JSON.stringify(asked.map(accepts)));
