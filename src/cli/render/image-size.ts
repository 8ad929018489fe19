/** The size of an image as people mean it: everything that was imported, whatever the flattened view shows. */
import type { Image } from '../../server/http/schemas.ts'

/** Bytes of all devices. */
export function deviceBytesOf(image: Image): number {
  return image.devices.reduce((sum, device) => sum + device.sizeBytes, 0)
}
