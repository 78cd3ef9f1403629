// The programs of docs/clients.md: each code block with a file name after its language becomes that file.
// `node page.mjs DIRECTORY` writes them.

import fs from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

const text = fs.readFileSync(new URL('../../docs/clients.md', import.meta.url), 'utf8')
const blocks = [...text.matchAll(/^```\w+ (\S+)( prints)?\n(.*?)^```$/gms)]

/** Writes the programs into a directory, with a link to the packages that are installed beside this file. */
export function writePrograms(directory) {
  fs.mkdirSync(directory, { recursive: true })
  const packages = path.join(directory, 'node_modules')
  if (!fs.existsSync(packages)) fs.symlinkSync(new URL('node_modules', import.meta.url), packages)
  for (const [, name, prints, program] of blocks) {
    if (!prints) fs.writeFileSync(path.join(directory, name), program)
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) writePrograms(process.argv[2])

/** Returns the commands that the page types into a terminal, from the repository's root. */
export const typedInto = (terminal) => text.split(`\`\`\`sh in terminal ${terminal}\n`)[1].split('```')[0]

/** Returns the output that the page shows for a program. */
export function printsOf(name) {
  const found = blocks.find(([, of, prints]) => of === name && prints)
  if (!found) throw new Error(`docs/clients.md does not say what ${name} prints`)
  return found[3]
}
