// The programs of docs/clients.md: every code block that has a file's name behind its language becomes that file.

import fs from 'node:fs'
import path from 'node:path'

const text = fs.readFileSync(new URL('../../docs/clients.md', import.meta.url), 'utf8')
const blocks = [...text.matchAll(/^```\w+ (\S+)( prints)?\n(.*?)^```$/gms)]

/** Writes the programs into a directory, where they find the packages that are installed beside this file. */
export function writePrograms(directory) {
  fs.rmSync(directory, { recursive: true, force: true })
  fs.mkdirSync(directory, { recursive: true })
  fs.symlinkSync(new URL('node_modules', import.meta.url), path.join(directory, 'node_modules'))
  for (const [, name, prints, program] of blocks) {
    if (!prints) fs.writeFileSync(path.join(directory, name), program)
  }
}

/** What the page says that a program prints. */
export function printsOf(name) {
  const found = blocks.find(([, of, prints]) => of === name && prints)
  if (!found) throw new Error(`docs/clients.md does not say what ${name} prints`)
  return found[3]
}
