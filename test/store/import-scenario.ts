/** One of each kind of write, in the order of an import: what the crash tests interrupt. */
import { digestOf } from '../../src/core/index.ts'
import { MapBuilder, openStore } from '../../src/store/index.ts'

/** `acknowledge` is called when a write has been promised to be there; `afterStep` after each change of the disk. */
export async function importOnce(
  dataDir: string,
  acknowledge: (what: string) => void = () => undefined,
  afterStep: () => void = () => undefined,
): Promise<void> {
  await using store = await openStore({ dataDir, mode: 'owner', afterStep })
  const domain = store.domain('acme')
  await using writer = await domain.blobs.createWriter()
  writer.appendBlocks(Buffer.alloc(8192, 1))
  writer.appendPacked(Buffer.from('a tail'))
  const blob = await writer.finish()
  if (blob === undefined) throw new Error('the blob is not empty')
  acknowledge('blob')
  const builder = new MapBuilder()
  const source = builder.addSource()
  builder.addPiece(blob.size, source, 0)
  const facts = { parsedAsErofs: false, logicalBytes: 0, inodeCount: 0 }
  const map = builder.encode([{ blob, base: 0 }], facts)
  acknowledge(`map ${await domain.maps.put(blob.digest, map)}`)
  const image = await domain.manifests.put(Buffer.from('{"devices":[]}'))
  acknowledge('manifest')
  for (let change = 0; change < 2; change++) {
    const generation = (await domain.refs.resolve('app', 'latest'))?.generation ?? 0
    if (generation >= 2) break
    const oci = digestOf(Buffer.from(String(change)))
    const ref = await domain.refs.compareAndSwap('app', 'latest', generation, { image, oci })
    acknowledge(`ref app:latest ${ref.generation}`)
  }
}
